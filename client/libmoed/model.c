/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "connection.h"

enum { MODEL_STRINGS = 4 };

static int broken_reply(struct moed *m, const char *verb) {
        return reason_return(&m->reason, -EPROTO, "the daemon's answer to %s is not what the protocol says",
                             verb);
}

/* Copies a string of the reply behind *at, terminated; absent is "". *at moves on. */
static const char *model_string(struct control_map map, const char *key, char **at) {
        struct control_text text = { .data = "" };
        char *start = *at;

        if (control_get_string(map, key, &text))
                text.size = 0;
        if (text.size > 0)
                memcpy(start, text.data, text.size);
        start[text.size] = 0;
        *at = start + text.size + 1;
        return start;
}

static size_t model_string_bytes(struct control_map map) {
        static const char *const keys[MODEL_STRINGS] = { "name", "architecture", "file", "template" };
        size_t bytes = 0;

        for (size_t i = 0; i < MODEL_STRINGS; i++) {
                struct control_text text;

                bytes += 1 + (control_get_string(map, keys[i], &text) == 0 ? text.size : 0);
        }
        return bytes;
}

static uint32_t get_u32(struct control_map map, const char *key) {
        uint32_t value = 0;

        return control_get_u32(map, key, &value) == 0 ? value : 0;
}

static uint64_t get_u64(struct control_map map, const char *key) {
        uint64_t value = 0;

        return control_get_u64(map, key, &value) == 0 ? value : 0;
}

static struct moed_model model_read(struct control_map map, char **strings) {
        return (struct moed_model) {
                .handle = get_u32(map, "handle"),
                .name = model_string(map, "name", strings),
                .architecture = model_string(map, "architecture", strings),
                .file = model_string(map, "file", strings),
                .chat_template = model_string(map, "template", strings),
                .parameters = get_u64(map, "parameters"),
                .bytes = get_u64(map, "size"),
                .context = get_u32(map, "context"),
                .vocab = get_u32(map, "vocab"),
                .layers = get_u32(map, "layers"),
                .moe_layers = get_u32(map, "moe_layers"),
                .experts = get_u32(map, "experts"),
                .experts_used = get_u32(map, "experts_used"),
        };
}

/* 0 or -EPROTO. */
static int model_at(struct control_array array, uint32_t i, struct control_map *ret) {
        struct control_value value;

        return control_array_at(array, i, &value) == 0 && control_as_map(value, ret) == 0 ? 0 : -EPROTO;
}

static int models_read(struct moed *m, struct control_array array) {
        _cleanup_(freep) struct moed_model *models = NULL;
        _cleanup_(freep) char *strings = NULL;
        struct control_map map;
        size_t bytes = 1;
        char *at;

        for (uint32_t i = 0; i < array.size; i++) {
                if (model_at(array, i, &map) < 0)
                        return broken_reply(m, "models");
                bytes += model_string_bytes(map);
        }
        models = calloc((size_t) array.size + 1, sizeof(*models));
        strings = malloc(bytes);
        if (!models || !strings)
                return reason_return(&m->reason, -ENOMEM, "out of memory");
        at = strings;
        for (uint32_t i = 0; i < array.size; i++)
                if (model_at(array, i, &map) == 0)
                        models[i] = model_read(map, &at);
        free(m->models);
        free(m->model_strings);
        m->models = steal_ptr(models);
        m->model_strings = steal_ptr(strings);
        m->n_models = array.size;
        return 0;
}

int moed_models(struct moed *m, const struct moed_model **ret) {
        _cleanup_(control_message_deinit) struct control_message reply = CONTROL_MESSAGE_NULL;
        struct control_builder b;
        struct control_array array;
        int r;

        control_request_init(&b, "models");
        r = control_exchange(m, &b, &reply, NULL);
        if (r < 0)
                return r;
        if (control_get_array(reply.root, "models", &array))
                return broken_reply(m, "models");
        r = models_read(m, array);
        if (r < 0)
                return r;
        *ret = m->models;
        return (int) m->n_models;
}

int moed_model_find(struct moed *m, const char *name, uint32_t *ret) {
        _cleanup_(control_message_deinit) struct control_message reply = CONTROL_MESSAGE_NULL;
        struct control_builder b;
        uint32_t handle;
        int r;

        control_request_init(&b, "open");
        if (name)
                control_put_string(&b, "model", name);
        r = control_exchange(m, &b, &reply, NULL);
        if (r < 0)
                return r;
        if (control_get_u32(reply.root, "handle", &handle) || handle == 0)
                return broken_reply(m, "open");
        *ret = handle;
        return 0;
}

static int tokens_read(struct moed *m, struct control_array array, int32_t **ret) {
        _cleanup_(freep) int32_t *tokens = malloc(((size_t) array.size + 1) * sizeof(*tokens));

        if (!tokens)
                return reason_return(&m->reason, -ENOMEM, "out of memory");
        for (uint32_t i = 0; i < array.size; i++) {
                struct control_value value;
                int64_t token;

                if (control_array_at(array, i, &value) || control_as_i64(value, &token) ||
                    token != (int32_t) token)
                        return broken_reply(m, "tokenize");
                tokens[i] = (int32_t) token;
        }
        *ret = steal_ptr(tokens);
        return (int) array.size;
}

int moed_tokenize(struct moed *m, uint32_t model, const char *text, size_t length, uint32_t flags,
                  int32_t **ret) {
        _cleanup_(control_message_deinit) struct control_message reply = CONTROL_MESSAGE_NULL;
        struct control_builder b;
        struct control_array array;
        int r;

        if ((flags & ~(uint32_t) (MOED_SPECIAL | MOED_NO_BOS)) != 0)
                return reason_return(&m->reason, -EINVAL,
                                     "moed_tokenize: only MOED_SPECIAL and MOED_NO_BOS are for this");
        control_request_init(&b, "tokenize");
        control_put_u64(&b, "model", model);
        control_put_text(&b, "text", text, length);
        control_put_bool(&b, "special", flags & MOED_SPECIAL);
        control_put_bool(&b, "bos", !(flags & MOED_NO_BOS));
        r = control_exchange(m, &b, &reply, NULL);
        if (r < 0)
                return r;
        if (control_get_array(reply.root, "tokens", &array))
                return broken_reply(m, "tokenize");
        return tokens_read(m, array, ret);
}

int moed_detokenize(struct moed *m, uint32_t model, const int32_t *tokens, size_t n, char **ret) {
        _cleanup_(control_message_deinit) struct control_message reply = CONTROL_MESSAGE_NULL;
        struct control_builder b;
        struct control_text text;
        char *copy;
        int r;

        control_request_init(&b, "detokenize");
        control_put_u64(&b, "model", model);
        control_begin_array(&b, "tokens");
        for (size_t i = 0; i < n; i++)
                control_put_i64(&b, NULL, tokens[i]);
        control_end(&b);
        r = control_exchange(m, &b, &reply, NULL);
        if (r < 0)
                return r;
        if (control_get_binary(reply.root, "text", &text))
                return broken_reply(m, "detokenize");
        copy = malloc(text.size + 1);
        if (!copy)
                return reason_return(&m->reason, -ENOMEM, "out of memory");
        if (text.size > 0)
                memcpy(copy, text.data, text.size);
        copy[text.size] = 0;
        *ret = copy;
        return (int) text.size;
}
