/* SPDX-License-Identifier: MIT */
#include "sentencepiece.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "cursor.h"
#include "utf8.h"

/* U+2581, which stands for a space in pieces. */
static const char meta_space[] = "\xe2\x96\x81";
enum { META_SPACE_SIZE = 3 };

static bool is_meta_space(const char *text, size_t size) {
        return size >= META_SPACE_SIZE && memcmp(text, meta_space, META_SPACE_SIZE) == 0;
}

int token_byte(struct gguf_string text) {
        static const char digits[] = "0123456789ABCDEF";
        const char *high, *low;

        if (text.size != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
                return -1;
        high = memchr(digits, text.data[3], 16);
        low = memchr(digits, text.data[4], 16);
        return high && low ? (int) ((high - digits) * 16 + (low - digits)) : -1;
}

size_t sentencepiece_spell(enum token_type type, struct gguf_string text, char *out) {
        const int byte = type == TOKEN_BYTE ? token_byte(text) : -1;
        size_t n = 0;

        if (byte >= 0) {
                out[0] = (char) byte;
                return 1;
        }
        if (type == TOKEN_UNKNOWN) {
                static const char question[] = " \xe2\x81\x87 ";

                memcpy(out, question, strlen(question));
                return strlen(question);
        }
        for (size_t i = 0; i < text.size;) {
                if (type != TOKEN_CONTROL && is_meta_space(text.data + i, text.size - i)) {
                        out[n++] = ' ';
                        i += META_SPACE_SIZE;
                } else {
                        out[n++] = text.data[i++];
                }
        }
        return n;
}

static int charsmap_init(struct charsmap *m, struct tokenizer *t, const struct gguf *g,
                         struct reason *reason) {
        static const char key[] = "tokenizer.ggml.precompiled_charsmap";
        struct gguf_array a;
        struct cursor c;
        uint32_t size;

        if (!gguf_has(g, key))
                return 0;
        if (gguf_get_array(g, key, &a, NULL) != 0 || (a.type != GGUF_U8 && a.type != GGUF_I8))
                return reason_return(reason, TOKENIZER_E_INVALID, "%.60s: '%s' is not an array of bytes",
                                     t->name, key);
        if (a.n == 0)
                return 0;
        c = (struct cursor) { .base = a.data, .size = a.n };
        if (!cursor_u32(&c, &size) || size == 0 || size % sizeof(*m->units) != 0 || size >= cursor_left(&c) ||
            a.data[a.n - 1] != '\0')
                return reason_return(reason, TOKENIZER_E_INVALID,
                                     "%.60s: '%s' has no trie with strings behind it", t->name, key);
        m->n_units = size / sizeof(*m->units);
        m->strings_size = cursor_left(&c) - size;
        m->units = malloc(size);
        m->strings = malloc(m->strings_size);
        if (!m->units || !m->strings)
                return -ENOMEM;
        for (size_t i = 0; i < m->n_units; i++)
                cursor_u32(&c, &m->units[i]);
        memcpy(m->strings, cursor_take(&c, m->strings_size), m->strings_size);
        /* Where the last string ends no longer depends on the file. */
        m->strings[m->strings_size - 1] = '\0';
        return 0;
}

/* Bits of a unit: 0-7 label, 8 has a leaf, 9 offset is in steps of 256, 10-31 offset; a leaf has bit 31 and a
 * value. */
static size_t unit_offset(uint32_t unit) {
        return (size_t) (unit >> 10) << (unit & 1u << 9 ? 8 : 0);
}

/* Real sequences are a few characters; a made trie must not make each step as long as the text. */
enum { SEQUENCE_MAX = 256 };

/* The longest sequence at the start of text that has a replacement; 0 when there is none. */
static size_t charsmap_find(const struct charsmap *m, const char *text, size_t size, const char **ret) {
        size_t found = 0, node;

        if (m->n_units == 0)
                return 0;
        node = unit_offset(m->units[0]);
        for (size_t i = 0; i < MIN(size, (size_t) SEQUENCE_MAX); i++) {
                const uint8_t c = (uint8_t) text[i];
                uint32_t unit;

                node ^= c;
                if (node >= m->n_units)
                        break;
                unit = m->units[node];
                if ((unit & (1u << 31 | 0xff)) != c)
                        break;
                node ^= unit_offset(unit);
                if (unit & 1u << 8 && node < m->n_units && (m->units[node] & INT32_MAX) < m->strings_size) {
                        *ret = m->strings + (m->units[node] & INT32_MAX);
                        found = i + 1;
                }
        }
        return found;
}

int sentencepiece_init(struct sentencepiece *s, struct tokenizer *t, const struct gguf *g,
                       struct reason *reason) {
        *s = (struct sentencepiece) { .space_first = true };
        if (!t->scores)
                return reason_return(reason, TOKENIZER_E_INVALID,
                                     "%.60s: the key 'tokenizer.ggml.scores' is missing", t->name);
        if (gguf_get_bool_or(g, "tokenizer.ggml.add_space_prefix", true, &s->space_first, reason) != 0 ||
            gguf_get_bool_or(g, "tokenizer.ggml.remove_extra_whitespaces", false, &s->spaces_merge, reason) !=
                    0)
                return TOKENIZER_E_INVALID;
        t->drops_space = s->space_first || s->spaces_merge;
        for (size_t byte = 0; byte < ELEMENTS(s->bytes); byte++)
                s->bytes[byte] = BPE_NONE;
        for (uint32_t id = t->n; id-- > 0;)
                if (t->tokens[id].type == TOKEN_BYTE && t->tokens[id].size == 1)
                        s->bytes[(uint8_t) t->tokens[id].text[0]] = (int32_t) id;
        return charsmap_init(&s->map, t, g, reason);
}

void sentencepiece_deinit(struct sentencepiece *s) {
        free(s->map.units);
        free(s->map.strings);
        s->map = (struct charsmap) { .units = NULL };
}

size_t sentencepiece_character(const char *text, size_t size) {
        uint32_t code;
        const unsigned n = utf8_decode(text, size, &code);

        return n > 0 ? n : 1;
}

struct output {
        char *data;
        size_t n, capacity;
};

static int output_append(struct output *o, const char *text, size_t size) {
        if (size > TOKENIZER_TEXT_MAX - o->n)
                return TOKENIZER_E_SIZE;
        if (o->capacity - o->n < size) {
                const size_t capacity = MAX(o->capacity * 2, o->n + size);
                char *grown = realloc(o->data, capacity);

                if (!grown)
                        return -ENOMEM;
                o->data = grown;
                o->capacity = capacity;
        }
        if (size > 0)
                memcpy(o->data + o->n, text, size);
        o->n += size;
        return 0;
}

/* One step: what `size` bytes of text become. Returns how many of them were taken. */
static size_t next_sequence(const struct sentencepiece *s, const char *text, size_t size, const char **ret,
                            size_t *ret_size) {
        const size_t found = charsmap_find(&s->map, text, size, ret);

        if (found > 0) {
                *ret_size = strlen(*ret);
                return found;
        }
        *ret = text;
        *ret_size = sentencepiece_character(text, size);
        return *ret_size;
}

static int normalize_rest(const struct sentencepiece *s, const char *text, size_t size, struct output *o) {
        bool after_space = s->spaces_merge;

        while (size > 0) {
                const char *piece;
                size_t n;
                const size_t taken = next_sequence(s, text, size, &piece, &n);
                int r;

                while (after_space && n > 0 && *piece == ' ') {
                        piece++;
                        n--;
                }
                if (n > 0)
                        after_space = s->spaces_merge && piece[n - 1] == ' ';
                r = is_meta_space(piece, n) ? output_append(o, " ", 1) : output_append(o, piece, n);
                if (r)
                        return r;
                text += taken;
                size -= taken;
        }
        return 0;
}

int sentencepiece_normalize(const struct sentencepiece *s, const char *text, size_t size, bool first,
                            char **ret, size_t *ret_size) {
        struct output o = { .data = NULL };
        int r;

        while (s->spaces_merge && size > 0) {
                const char *piece;
                size_t n;
                const size_t taken = next_sequence(s, text, size, &piece, &n);

                if (n != 1 || *piece != ' ')
                        break;
                text += taken;
                size -= taken;
        }
        r = output_append(&o, " ", size > 0 && first && s->space_first);
        if (r == 0)
                r = normalize_rest(s, text, size, &o);
        if (r) {
                free(o.data);
                return r;
        }
        while (s->spaces_merge && o.n > 0 && o.data[o.n - 1] == ' ')
                o.n--;
        *ret = o.data;
        *ret_size = o.n;
        return 0;
}

int sentencepiece_unknown(const struct sentencepiece *s, const struct tokenizer *t, const char *bytes,
                          size_t size, bool *was_unknown, struct token_list *out) {
        bool all = true;
        int r = 0;

        for (size_t i = 0; i < size; i++)
                all = all && s->bytes[(uint8_t) bytes[i]] != BPE_NONE;
        if (all) {
                for (size_t i = 0; r == 0 && i < size; i++)
                        r = token_list_append(out, s->bytes[(uint8_t) bytes[i]]);
                *was_unknown = false;
                return r;
        }
        if (t->unknown < 0)
                return TOKENIZER_E_TEXT;
        if (!*was_unknown)
                r = token_list_append(out, t->unknown);
        *was_unknown = true;
        return r;
}
