/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "explain.h"
#include "offer.h"
#include "peer.h"
#include "report.h"
#include "save.h"
#include "stream.h"
#include "verbs.h"

enum {
        TOKENIZE_TEXT_MAX = 64 * 1024, /* bytes: done on the loop's thread */
        ENTRIES_DEFAULT = 256,
        EXPLAIN_DEFAULT = 20, /* requests */
        VERB_LATER = INT_MAX, /* from a handler: verbs_reply() will be called */
};

/* What a key must be that names one. */
#define PRINCIPAL "default, uid:NUMBER, gid:NUMBER or unit:NAME"

struct call {
        struct peer *peer;
        uint64_t id;
        struct control_map args;
        struct control_builder *reply;
        struct reason *reason;
        int fds[4]; /* to be sent along and closed */
        size_t n_fds;
};

enum verb_flags {
        VERB_FIRST = 1 << 0, /* before hello, and only then */
        VERB_ROOT = 1 << 1,  /* root, and the daemon's own user */
};

struct verb {
        const char *name;
        int (*handle)(struct call *call); /* 0, a positive errno with a reason, a negative errno, or VERB_LATER */
        unsigned flags;
};

static int wrong(struct call *call, const char *key, const char *type) {
        return reason_return(call->reason, EINVAL, "key \"%s\" must be %s", key, type);
}

static int no_model(struct call *call, const char *name) {
        return reason_return(call->reason, ENOENT, "there is no model \"%s\"; `moectl models` lists them", name);
}

/* Absent leaves *ret as it is. */
static int optional_u32(struct call *call, const char *key, uint32_t *ret) {
        int r = control_get_u32(call->args, key, ret);

        return r == CONTROL_E_TYPE ? wrong(call, key, "an unsigned 32-bit integer") : 0;
}

/* It is shown on terminals. */
static void clean_name(char *name) {
        for (; *name; name++)
                if ((unsigned char) *name < ' ' || *name == 0x7f)
                        *name = '?';
}

static int verb_hello(struct call *call) {
        const struct config_limits *limits = &call->peer->server->config->limits;
        uint32_t version, entries = ENTRIES_DEFAULT;
        uint64_t arena = 1024 * 1024;
        int r;

        if (control_get_u32(call->args, "version", &version) != 0)
                return wrong(call, "version", "an unsigned integer");
        if (version != WIRE_VERSION)
                return reason_return(call->reason, EPROTONOSUPPORT,
                                     "the client speaks version %u of the protocol, this daemon (moed " MOED_VERSION
                                     ") version %u; use a libmoed and a moed of one release",
                                     version, (unsigned) WIRE_VERSION);
        r = optional_u32(call, "entries", &entries);
        if (r != 0)
                return r;
        if (control_get_u64(call->args, "arena", &arena) == CONTROL_E_TYPE)
                return wrong(call, "arena", "an unsigned integer");
        if (control_get_name(call->args, "name", call->peer->name, sizeof(call->peer->name)) == CONTROL_E_TYPE)
                return wrong(call, "name", "a string of at most 64 bytes");
        clean_name(call->peer->name);
        if (entries > limits->ring_entries_max)
                return reason_return(call->reason, EDQUOT, "a ring may have %u entries (RingEntriesMax= in moed.conf), "
                                     "%u were asked for", limits->ring_entries_max, entries);
        r = peer_greet(call->peer, entries, arena, call->fds, call->reason);
        if (r != 0)
                return r;
        call->n_fds = 4;
        control_put_u64(call->reply, "version", WIRE_VERSION);
        control_put_u64(call->reply, "entries", call->peer->layout.entries);
        control_put_u64(call->reply, "arena", call->peer->layout.arena_size);
        control_put_u64(call->reply, "submissions", call->peer->layout.submissions);
        control_put_u64(call->reply, "arena_offset", call->peer->layout.arena);
        control_put_u64(call->reply, "completions", call->peer->layout.completions);
        control_put_u64(call->reply, "client_size", call->peer->layout.client_size);
        control_put_u64(call->reply, "daemon_size", call->peer->layout.daemon_size);
        control_put_string(call->reply, "server", "moed " MOED_VERSION);
        return 0;
}

static int verb_models(struct call *call) {
        struct offer *offer;

        control_begin_array(call->reply, "models");
        list_for_each(offer, &call->peer->server->offers, link) {
                if (offer->retired)
                        continue;
                control_begin_map(call->reply, NULL);
                report_model(call->reply, offer);
                control_end(call->reply);
        }
        control_end(call->reply);
        return 0;
}

static int verb_open(struct call *call) {
        char name[CONFIG_MODEL_NAME_MAX + 1] = "";
        struct offer *offer;
        int r;

        r = control_get_name(call->args, "model", name, sizeof(name));
        if (r == CONTROL_E_TYPE)
                return wrong(call, "model", "a name");
        offer = server_offer_named(call->peer->server, r == 0 ? name : NULL);
        if (!offer && r != 0)
                return reason_return(call->reason, ENOENT, "the daemon serves no model now");
        if (!offer)
                return no_model(call, name);
        report_model(call->reply, offer);
        return 0;
}

static int find_model(struct call *call, struct offer **ret) {
        uint32_t handle = 0;
        int r;

        r = optional_u32(call, "model", &handle);
        if (r != 0)
                return r;
        *ret = server_offer(call->peer->server, handle);
        if (!*ret)
                return reason_return(call->reason, ENOENT, "there is no model with handle %u; `open` tells the handle",
                                     handle);
        return 0;
}

static int optional_flag(struct call *call, const char *key, unsigned bit, unsigned *flags) {
        bool value;

        switch (control_get_bool(call->args, key, &value)) {
        case 0:
                *flags = value ? *flags | bit : *flags & ~bit;
                return 0;
        case CONTROL_E_TYPE:
                return wrong(call, key, "true or false");
        }
        return 0;
}

static int verb_tokenize(struct call *call) {
        struct token_list list = TOKEN_LIST_NULL;
        struct control_text text;
        struct offer *offer;
        unsigned flags = TOKENIZE_BOS;
        int r;

        r = find_model(call, &offer);
        if (r == 0)
                r = optional_flag(call, "special", TOKENIZE_SPECIAL, &flags);
        if (r == 0)
                r = optional_flag(call, "bos", TOKENIZE_BOS, &flags);
        if (r != 0)
                return r;
        if (control_get_string(call->args, "text", &text) != 0 && control_get_binary(call->args, "text", &text) != 0)
                return wrong(call, "text", "a string");
        if (text.size > TOKENIZE_TEXT_MAX)
                return reason_return(call->reason, EMSGSIZE,
                                     "the text has %zu bytes, at most %u are tokenised at a time", text.size,
                                     (unsigned) TOKENIZE_TEXT_MAX);
        r = tokenizer_encode(model_tokenizer(offer->model), text.data, text.size, flags, &list);
        if (r < 0)
                return r;
        if (r > 0)
                return reason_return(call->reason, EILSEQ,
                                     "the text has a character that the model's vocabulary cannot "
                                     "express");
        control_begin_array(call->reply, "tokens");
        for (size_t i = 0; i < list.n; i++)
                control_put_u64(call->reply, NULL, (uint64_t) list.ids[i]);
        control_end(call->reply);
        token_list_deinit(&list);
        return 0;
}

static int read_tokens(struct call *call, int32_t **ret, uint32_t *ret_n) {
        _cleanup_(freep) int32_t *ids = NULL;
        struct control_array array;
        struct control_value value;
        uint32_t id;

        if (control_get_array(call->args, "tokens", &array) != 0)
                return wrong(call, "tokens", "an array of token ids");
        ids = malloc(((size_t) array.size + 1) * sizeof(*ids));
        if (!ids)
                return -ENOMEM;
        for (uint32_t i = 0; i < array.size; i++) {
                if (control_array_at(array, i, &value) != 0 || control_as_u32(value, &id) != 0 || id > INT32_MAX)
                        return wrong(call, "tokens", "an array of token ids");
                ids[i] = (int32_t) id;
        }
        *ret = steal_ptr(ids);
        *ret_n = array.size;
        return 0;
}

static int verb_detokenize(struct call *call) {
        _cleanup_(freep) int32_t *ids = NULL;
        _cleanup_(freep) char *text = NULL;
        struct offer *offer;
        uint32_t n;
        size_t size;
        int r;

        r = find_model(call, &offer);
        if (r == 0)
                r = read_tokens(call, &ids, &n);
        if (r != 0)
                return r;
        r = tokenizer_decode(model_tokenizer(offer->model), ids, n, DETOKENIZE_SPECIAL, &text, &size);
        if (r < 0)
                return r;
        control_put_binary(call->reply, "text", text, size);
        return 0;
}

static int verb_cancel(struct call *call) {
        struct stream *stream;
        uint64_t request, number;
        int r;

        r = control_get_u64(call->args, "number", &number);
        if (r == CONTROL_E_TYPE)
                return wrong(call, "number", "an unsigned integer");
        if (r != 0 && control_get_u64(call->args, "request", &request) != 0)
                return wrong(call, "request", "an unsigned integer");
        stream = r == 0 ? peer_find_numbered(call->peer, number) : peer_find_stream(call->peer, request);
        control_put_bool(call->reply, "found", stream != NULL);
        if (!stream)
                return 0;
        if (stream->peer != call->peer)
                log_line(LOG_INFO, peer_log_fields(call->peer), "request %" PRIu64 " of pid %d is cancelled",
                         stream->serial, (int) stream->peer->credentials.pid);
        stream_cancel(stream);
        peer_publish(stream->peer);
        return 0;
}

static int verb_ps(struct call *call) {
        report_peers(call->reply, call->peer->server, peer_is_admin(call->peer) ? NULL : call->peer->user);
        return 0;
}

static int stats_experts(struct call *call, const char *name) {
        struct offer *offer = server_offer_named(call->peer->server, name);
        uint32_t from = 0;
        int r;

        if (!peer_is_root(call->peer))
                return reason_return(call->reason, EPERM,
                                     "only root may see which experts are used: they tell what was "
                                     "asked");
        if (!offer)
                return no_model(call, name);
        r = optional_u32(call, "from", &from);
        if (r == 0)
                report_experts(call->reply, offer, from);
        return r;
}

/* Times of passes tell of those who were in them. */
static int stats_cost(struct call *call) {
        if (!peer_is_admin(call->peer))
                return reason_return(call->reason, EPERM,
                                     "only root and members of moed-admin may see what passes cost");
        report_cost(call->reply, call->peer->server);
        return 0;
}

static int verb_stats(struct call *call) {
        char name[CONFIG_MODEL_NAME_MAX + 1];
        bool cost = false;

        if (control_get_bool(call->args, "cost", &cost) == CONTROL_E_TYPE)
                return wrong(call, "cost", "true or false");
        if (cost)
                return stats_cost(call);
        switch (control_get_name(call->args, "experts", name, sizeof(name))) {
        case 0:
                return stats_experts(call, name);
        case CONTROL_E_TYPE:
                return wrong(call, "experts", "the name of a model");
        }
        report_stats(call->reply, call->peer->server, peer_is_admin(call->peer));
        return 0;
}

/* "ExpertsMax": "2.5", as in moed.conf(5). Keys that are none are refused, not passed over: a limit that is not set
 * because of a slip must not look as if it were. */
static int read_policy_key(struct call *call, struct control_text key_text, struct control_value value_text,
                           struct policy *policy, uint32_t *keys) {
        char name[32], value[64], list[POLICY_LIST_MAX];
        struct reason reason = REASON_INIT;
        struct control_text text;
        enum policy_key key;
        uint64_t n;

        if (key_text.size >= sizeof(name) || control_as_string(value_text, &text) != 0 || text.size >= sizeof(value))
                return reason_return(call->reason, EINVAL, "in \"set\" keys and values must be short strings");
        snprintf(name, sizeof(name), "%.*s", (int) key_text.size, key_text.data);
        snprintf(value, sizeof(value), "%.*s", (int) text.size, text.data);
        if (policy_key_find(name, &key)) {
                policy_key_list(list);
                return reason_return(call->reason, EINVAL, "'%s' cannot be set; known are %s", name, list);
        }
        if (policy_key_parse(key, value, &n, &reason))
                return reason_return(call->reason, EINVAL, "%s=%s: %s", policy_key_name(key), value, reason.text);
        policy_key_put(policy, key, n);
        *keys |= 1u << key;
        return 0;
}

static int read_policy(struct call *call, struct control_map set, struct policy *policy, uint32_t *keys) {
        struct control_value value;
        struct control_text key;
        char list[POLICY_LIST_MAX];
        int r;

        for (uint32_t i = 0; control_map_at(set, i, &key, &value) == 0; i++) {
                if (key.size == strlen("principal") && memcmp(key.data, "principal", key.size) == 0)
                        continue;
                r = read_policy_key(call, key, value, policy, keys);
                if (r != 0)
                        return r;
        }
        if (*keys == 0) {
                policy_key_list(list);
                return reason_return(call->reason, EINVAL, "nothing to set; known are %s", list);
        }
        return 0;
}

static int policy_error(int r) {
        return r == POLICY_E_ABSENT ? ENOENT : r > 0 ? EINVAL : r;
}

/* Whoever sets it may think that it does something. */
static void log_no_effect(const struct peer *peer, const char *name, uint32_t keys, const struct policy *policy) {
        char value[POLICY_VALUE_MAX];

        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++) {
                uint64_t n = policy_key_get(policy, key);

                if (!(keys & (1u << key)) || !policy_key_no_effect(key, n))
                        continue;
                policy_key_format(key, n, value);
                log_line(LOG_WARNING, peer_log_fields(peer), "budget of %s: %s=%s: %s", name, policy_key_name(key),
                         value, policy_key_no_effect(key, n));
        }
}

static int budget_set(struct call *call, struct control_map set, bool save) {
        struct server *server = call->peer->server;
        struct policy policy = POLICY_DEFAULT;
        struct policy_principal principal;
        char name[POLICY_NAME_MAX];
        uint32_t keys = 0;
        int r;

        if (control_get_name(set, "principal", name, sizeof(name)) != 0)
                return wrong(call, "principal", PRINCIPAL);
        r = read_policy(call, set, &policy, &keys);
        if (r != 0)
                return r;
        r = policy_principal_parse_numeric(&principal, name, call->reason);
        if (r == 0)
                r = policy_book_set(&server->policies, &principal, name, keys, &policy, save, call->reason);
        if (r != 0)
                return policy_error(r);
        log_line(LOG_INFO, peer_log_fields(call->peer), "budget of %s set", name);
        log_no_effect(call->peer, name, keys, &policy);
        return server_apply_policies(server);
}

static int budget_reset(struct call *call, const char *name, bool save) {
        struct server *server = call->peer->server;
        struct policy_principal principal;
        int r;

        r = policy_principal_parse_numeric(&principal, name, call->reason);
        if (r == 0)
                r = policy_book_reset(&server->policies, &principal, save, call->reason);
        if (r != 0)
                return policy_error(r);
        log_line(LOG_INFO, peer_log_fields(call->peer), "budget of %s reset", name);
        return server_apply_policies(server);
}

/* Whether the reply shall be about one principal. */
static int budget_scope(struct call *call, struct policy_principal *ret, bool *ret_one) {
        char name[POLICY_NAME_MAX];
        int r;

        r = control_get_name(call->args, "principal", name, sizeof(name));
        if (r == CONTROL_E_TYPE)
                return wrong(call, "principal", PRINCIPAL);
        *ret_one = r == 0;
        if (r != 0)
                return 0;
        r = policy_principal_parse_numeric(ret, name, call->reason);
        if (r != 0)
                return policy_error(r);
        if (!peer_is_admin(call->peer) && !policy_principal_equal(ret, &call->peer->tenant->who))
                return reason_return(call->reason, EPERM, "only root and the group " CONFIG_ADMIN_GROUP
                                     " may see the budgets of others; yours is that of %s", call->peer->tenant->name);
        return 0;
}

/* What is to be changed. 0 when nothing is. */
static int budget_change(struct call *call, bool *ret_saved) {
        char name[POLICY_NAME_MAX];
        struct control_map set;
        int set_r, reset_r, r = 0;
        bool save = false;

        set_r = control_get_map(call->args, "set", &set);
        reset_r = control_get_name(call->args, "reset", name, sizeof(name));
        if (set_r == CONTROL_E_TYPE)
                return wrong(call, "set", "a map");
        if (reset_r == CONTROL_E_TYPE)
                return wrong(call, "reset", PRINCIPAL);
        if (control_get_bool(call->args, "save", &save) == CONTROL_E_TYPE)
                return wrong(call, "save", "true or false");
        if (set_r != 0 && reset_r != 0)
                return 0;
        if (set_r == 0 && reset_r == 0)
                return reason_return(call->reason, EINVAL, "there is \"set\" or \"reset\" in a message, not both");
        if (!peer_is_admin(call->peer))
                return reason_return(call->reason, EPERM, "only root and the group " CONFIG_ADMIN_GROUP
                                     " may change budgets");
        if (save)
                r = save_check(call->peer->server, call->reason);
        if (r == 0 && set_r == 0)
                r = budget_set(call, set, save);
        if (r == 0 && reset_r == 0)
                r = budget_reset(call, name, save);
        *ret_saved = r == 0 && save;
        return r;
}

static int verb_budget(struct call *call) {
        struct peer *peer = call->peer;
        struct policy_principal one;
        bool has_one, saved = false;
        int r;

        r = budget_scope(call, &one, &has_one);
        if (r == 0)
                r = budget_change(call, &saved);
        if (r == 0 && saved) {
                r = save_budgets(peer->server, peer, call->id);
                return r == 0 ? VERB_LATER : r;
        }
        if (r != 0)
                return r;
        report_budgets(call->reply, peer->server, has_one ? &one : NULL, peer_is_admin(peer) ? NULL : peer->tenant);
        return 0;
}

static int verb_explain(struct call *call) {
        uint32_t limit = EXPLAIN_DEFAULT;
        uint64_t number;
        bool found;
        int number_r, r;

        r = optional_u32(call, "limit", &limit);
        if (r != 0)
                return r;
        number_r = control_get_u64(call->args, "number", &number);
        if (number_r == CONTROL_E_TYPE)
                return wrong(call, "number", "an unsigned integer");
        if (number_r != 0) {
                explain_list(call->reply, call->peer, limit);
                return 0;
        }
        r = explain_request(call->reply, call->peer, number, &found);
        if (r < 0 || found)
                return r;
        return reason_return(call->reason, ENOENT,
                             "no request %" PRIu64 " of yours runs, or is among the last ones that "
                             "are kept: %d, shared by all users",
                             number, HISTORY_MAX);
}

static int verb_reload(struct call *call) {
        int r = change_reload(call->peer->server, call->peer, call->id, call->reason);

        return r == 0 ? VERB_LATER : r;
}

static int verb_load(struct call *call) {
        char name[CONFIG_MODEL_NAME_MAX + 1], file[PATH_MAX];
        bool is_default = false;
        int r;

        if (control_get_name(call->args, "name", name, sizeof(name)) != 0)
                return wrong(call, "name", "the name of a model");
        if (control_get_name(call->args, "file", file, sizeof(file)) != 0 || file[0] != '/')
                return wrong(call, "file", "the absolute path of a GGUF file");
        if (control_get_bool(call->args, "default", &is_default) == CONTROL_E_TYPE)
                return wrong(call, "default", "true or false");
        r = change_load(call->peer->server, call->peer, call->id, name, file, is_default, call->reason);
        return r == 0 ? VERB_LATER : r;
}

static int verb_unload(struct call *call) {
        char name[CONFIG_MODEL_NAME_MAX + 1];
        struct offer *offer;

        if (control_get_name(call->args, "name", name, sizeof(name)) != 0)
                return wrong(call, "name", "the name of a model");
        offer = server_offer_named(call->peer->server, name);
        if (!offer)
                return no_model(call, name);
        control_put_u64(call->reply, "streams", offer->n_users);
        offer_retire(offer);
        return 0;
}

static const struct verb verbs[] = {
        { "hello",      verb_hello,      VERB_FIRST },
        { "models",     verb_models,     0 },
        { "open",       verb_open,       0 },
        { "tokenize",   verb_tokenize,   0 },
        { "detokenize", verb_detokenize, 0 },
        { "cancel",     verb_cancel,     0 },
        { "ps",         verb_ps,         0 },
        { "stats",      verb_stats,      0 },
        { "budget",     verb_budget,     0 },
        { "explain",    verb_explain,    0 },
        { "reload",     verb_reload,     VERB_ROOT },
        { "load",       verb_load,       VERB_ROOT },
        { "unload",     verb_unload,     VERB_ROOT },
};

static int verbs_call(struct call *call) {
        char name[32];

        if (control_get_name(call->args, "verb", name, sizeof(name)) != 0)
                return wrong(call, "verb", "a string: what the daemon shall do");
        for (size_t i = 0; i < ELEMENTS(verbs); i++) {
                const struct verb *verb = &verbs[i];

                if (strcmp(verb->name, name) != 0)
                        continue;
                if (!(verb->flags & VERB_FIRST) && !call->peer->greeted)
                        return reason_return(call->reason, EPROTO, "the first message must be hello");
                if ((verb->flags & VERB_FIRST) && call->peer->greeted)
                        return reason_return(call->reason, EPROTO, "hello is said once");
                if ((verb->flags & VERB_ROOT) && !peer_is_root(call->peer))
                        return reason_return(call->reason, EPERM, "only root may do this");
                return verb->handle(call);
        }
        return reason_return(call->reason, EOPNOTSUPP, "unknown verb \"%s\"", name);
}

static void verbs_send(struct call *call, uint64_t id, int error) {
        struct control_builder refusal;
        const void *data;
        size_t size;
        int r;

        control_builder_init(&refusal);
        if (error == 0) {
                control_put_u64(call->reply, "id", id);
                r = control_builder_finish(call->reply, &data, &size);
                if (r == CONTROL_E_REFUSED) {
                        error = EMSGSIZE;
                        reason_set(call->reason, "the reply is larger than a control message can be");
                } else if (r < 0) {
                        error = -r;
                        reason_set(call->reason, "the daemon has no memory for the reply");
                }
        }
        if (error != 0) {
                control_put_u64(&refusal, "id", id);
                control_put_u64(&refusal, "error", (uint64_t) error);
                control_put_string(&refusal, "reason", call->reason->text);
                r = control_builder_finish(&refusal, &data, &size);
        }
        if (r == 0)
                r = control_send(call->peer->socket, data, size, call->fds, error == 0 ? call->n_fds : 0);
        control_builder_deinit(&refusal);
        if (r == CONTROL_E_CLOSED)
                peer_close(call->peer);
        else if (r == CONTROL_E_AGAIN)
                peer_drop(call->peer, "it does not read the replies to its control messages");
        else if (r != 0)
                peer_drop(call->peer, "a reply could not be sent");
}

void verbs_reply(struct peer *peer, uint64_t id, struct control_builder *reply, int error, struct reason *reason) {
        struct call call = { .peer = peer, .reply = reply, .reason = reason };

        verbs_send(&call, id, error);
}

void verbs_handle(struct peer *peer, const void *data, size_t size) {
        struct control_message message = CONTROL_MESSAGE_NULL;
        struct reason reason = REASON_INIT;
        struct control_builder reply;
        struct call call = { .peer = peer, .reply = &reply, .reason = &reason, .fds = { -1, -1, -1, -1 } };
        int r;

        r = control_parse(&message, data, size, &reason);
        if (r != 0) {
                peer_drop(peer, "%s", r < 0 ? "the daemon has no memory for its control message" : reason.text);
                return;
        }
        call.args = message.root;
        control_builder_init(&reply);
        if (control_get_u64(message.root, "id", &call.id) != 0) {
                peer_drop(peer, "a control message has no \"id\"");
        } else {
                r = verbs_call(&call);
                if (r < 0)
                        reason_set(&reason, "the daemon cannot do this now: %s", strerror(-r));
                if (r != VERB_LATER)
                        verbs_send(&call, call.id, r < 0 ? -r : r);
        }
        for (size_t i = 0; i < ELEMENTS(call.fds); i++)
                close_fd(call.fds[i]);
        control_builder_deinit(&reply);
        control_message_deinit(&message);
}
