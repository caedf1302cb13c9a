/* SPDX-License-Identifier: MIT */
#include "fixture-tokenizer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "cursor.h"
#include "gguf.h"
#include "tokenizer.h"

#define ABSENT UINT32_MAX

/* One record: `n` counts bytes of text, elements of ids; ABSENT where the file leaves it out. */
struct field {
        const uint8_t *data;
        uint32_t n;
};

struct record {
        struct field text, ids, plain, decoded;
};

static bool read_field(struct cursor *c, size_t element, struct field *ret) {
        if (!cursor_u32(c, &ret->n))
                return false;
        ret->data = ret->n == ABSENT ? NULL : cursor_take(c, ret->n * (uint64_t) element);
        return ret->n == ABSENT || ret->data;
}

static bool read_record(struct cursor *c, struct record *ret) {
        return read_field(c, 1, &ret->text) && read_field(c, 4, &ret->ids) && read_field(c, 4, &ret->plain) &&
               read_field(c, 1, &ret->decoded);
}

static bool same_ids(struct field expected, const struct token_list *list) {
        return expected.n == list->n && (list->n == 0 || memcmp(expected.data, list->ids, 4 * list->n) == 0);
}

static bool same_text(struct field expected, const char *text, size_t n) {
        return expected.n == n && (n == 0 || memcmp(expected.data, text, n) == 0);
}

static void mismatch(struct fixture_tokenizer *f, const char *what, size_t number, const struct record *r) {
        if (f->mismatches++ == 0)
                reason_set(&f->first, "record %zu, %s: '%.*s'", number, what, (int) MIN(r->text.n, 100u),
                           (const char *) r->text.data);
}

/* Sum of the scores, by which two segmentations are tied. */
static double score(const struct tokenizer *t, const int32_t *ids, size_t n) {
        double sum = 0;

        for (size_t i = 0; i < n; i++)
                sum += (double) tokenizer_score(t, ids[i]);
        return sum;
}

static bool tied(const struct tokenizer *t, struct field expected, const struct token_list *list) {
        _cleanup_(freep) int32_t *ids = malloc(4 * (size_t) expected.n + 1);
        double difference;

        if (!ids)
                return false;
        memcpy(ids, expected.data, 4 * (size_t) expected.n);
        difference = score(t, ids, expected.n) - score(t, list->ids, list->n);
        return difference < 1e-3 && difference > -1e-3;
}

static int check_ids(struct fixture_tokenizer *f, const struct tokenizer *t, const struct record *r,
                     size_t number, bool by_score) {
        struct token_list ids = TOKEN_LIST_NULL, plain = TOKEN_LIST_NULL;
        _cleanup_(freep) char *text = NULL;
        const struct field decoded = r->decoded.n == ABSENT ? r->text : r->decoded;
        size_t n = 0;
        int e;

        e = tokenizer_encode(t, (const char *) r->text.data, r->text.n, TOKENIZE_SPECIAL, &ids);
        if (e == 0)
                e = tokenizer_encode(t, (const char *) r->text.data, r->text.n, 0, &plain);
        if (e == 0)
                e = tokenizer_decode(t, ids.ids, ids.n, DETOKENIZE_SPECIAL, &text, &n);
        if (e)
                mismatch(f, "refused", number, r);
        else if (by_score ? !tied(t, r->ids, &ids) : !same_ids(r->ids, &ids))
                mismatch(f, "ids", number, r);
        else if (!by_score && !same_ids(r->plain.n == ABSENT ? r->ids : r->plain, &plain))
                mismatch(f, "plain ids", number, r);
        else if (!by_score && !same_text(decoded, text, n))
                mismatch(f, "decoded text", number, r);
        token_list_deinit(&ids);
        token_list_deinit(&plain);
        return e < 0 ? e : 0;
}

static int read_file(const char *path, uint8_t **ret, size_t *ret_size) {
        _cleanup_(fclosep) FILE *f = fopen(path, "re");
        _cleanup_(freep) uint8_t *data = NULL;
        struct stat st;

        if (!f || fstat(fileno(f), &st) < 0)
                return -errno;
        data = malloc((size_t) st.st_size + 1);
        if (!data)
                return -ENOMEM;
        *ret_size = fread(data, 1, (size_t) st.st_size, f);
        *ret = steal_ptr(data);
        return 0;
}

static int run_pairs(struct fixture_tokenizer *f, const struct tokenizer *t, const char *folder,
                     const char *name, struct reason *reason) {
        _cleanup_(freep) uint8_t *data = NULL;
        _cleanup_(freep) char *path = NULL;
        struct cursor c = { .base = NULL };
        struct record record;
        int r;

        if (asprintf(&path, "%s/%s", folder, name) < 0)
                return -ENOMEM;
        r = read_file(path, &data, &c.size);
        if (r)
                return r == -ENOENT ? 0 : r;
        c.base = data;
        for (size_t number = 0; cursor_left(&c) > 0; number++) {
                if (!read_record(&c, &record))
                        return reason_return(reason, -EBADMSG, "%s: broken at byte %" PRIu64, path, c.offset);
                f->cases++;
                r = check_ids(f, t, &record, number, strstr(name, "tied") != NULL);
                if (r)
                        return r;
        }
        return 0;
}

static int load(struct tokenizer **ret, const char *folder, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/vocab.gguf", folder) < 0)
                return -ENOMEM;
        r = gguf_open(&g, path, reason);
        return r ? r : tokenizer_new(ret, g, reason);
}

int fixture_tokenizer_run(struct fixture_tokenizer *ret, const char *folder, struct reason *reason) {
        static const char *const names[] = { "pairs.bin", "pairs-nfc.bin", "pairs-tied.bin" };
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        struct fixture_tokenizer f = { .first = REASON_INIT };
        int r;

        r = load(&t, folder, reason);
        for (size_t i = 0; r == 0 && i < ELEMENTS(names); i++)
                r = run_pairs(&f, t, folder, names[i], reason);
        if (r == 0)
                *ret = f;
        return r;
}
