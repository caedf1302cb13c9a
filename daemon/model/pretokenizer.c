/* SPDX-License-Identifier: MIT */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenizer.h"

#include <errno.h>
#include <pcre2.h>
#include <string.h>

#include "base/util.h"

enum { STAGES_MAX = 6, NAMES_MAX = 8 };

enum {
        FAMILY_NFC = 1 << 0,
        FAMILY_IGNORE_MERGES = 1 << 1,
        FAMILY_ADD_BOS = 1 << 2,
};

struct family {
        const char *names[NAMES_MAX];
        unsigned flags;
        /* Applied in turn, each to what the one before left: a match is a piece of its own, and so is what
         * lies between two matches. */
        const char *stages[STAGES_MAX];
};

/* Unicode's White_Space, which is what \s means to the models; to PCRE2 it also has U+180E. */
#define WS "\\t-\\r\\x{85}\\p{Z}"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
/* White space before text leaves its last character to what follows. */
#define SPACES    "[" WS "]+(?![^" WS "])|[" WS "]+"
#define LINE_ENDS "[" WS "]*[\\r\\n]+"
#define GPT2      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define LLAMA3(digits)                                                                                       \
        CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" LINE_ENDS \
                    "|" SPACES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix, digits)                                                                                \
        "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER        \
        "*" suffix "|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS "|" SPACES
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

/* The letters that DeepSeek's first tokenizers call words: most, not all, of those that have case. */
#define DEEPSEEK_LETTERS                                                                                     \
        "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                       \
        "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"               \
        "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                        \
        "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                             \
        "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                       \
        "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                       \
        "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"              \
        "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"               \
        "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                       \
        "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                        \
        "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"                         \
        "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"              \
        "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"               \
        "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                        \
        "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                       \
        "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"                     \
        "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"               \
        "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

/* Names are those that converters write. Expressions: the tokenizer.json that each family publishes. */
static const struct family families[] = {
        {
                .names = { "gpt-2", "default", "olmo", "mpt", "jais", "trillion", "granite-docling" },
                .stages = { GPT2 },
        },
        {
                .names = { "llama-bpe", "llama3", "llama-v3", "falcon3" },
                .flags = FAMILY_IGNORE_MERGES | FAMILY_ADD_BOS,
                .stages = { LLAMA3("\\p{N}{1,3}") },
        },
        {
                .names = { "dbrx", "smaug-bpe", "chatglm-bpe", "glm4" },
                .stages = { LLAMA3("\\p{N}{1,3}") },
        },
        {
                .names = { "qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan" },
                .flags = FAMILY_NFC,
                .stages = { LLAMA3("\\p{N}") },
        },
        {
                .names = { "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone" },
                .stages = { "\\p{N}", GPT2 },
        },
        {
                .names = { "deepseek-llm" },
                .stages = {
                        "[\\r\\n]",
                        "[" WS "]?[" DEEPSEEK_LETTERS "]+",
                        "[" WS "]?[!-/:-~！-／：-～‘-‟\\x{3000}-。]+",
                        /* Only from where white space begins, else each of its characters would be tried. */
                        "(?<![" WS "])[" WS "]++\\z",
                        DEEPSEEK_CJK,
                        "\\p{N}",
                },
        },
        {
                .names = { "deepseek-coder" },
                .stages = {
                        "[\\r\\n]",
                        "[" WS "]?\\p{L}+",
                        "[" WS "]?\\p{P}+",
                        DEEPSEEK_CJK,
                        "\\p{N}",
                },
        },
        {
                .names = { "deepseek-v3" },
                .stages = {
                        "\\p{N}{1,3}",
                        "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+",
                        "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                        " ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINE_ENDS "|" SPACES,
                },
        },
        {
                .names = { "gpt-4o", "llama4", "o200k" },
                .stages = { CASED(CONTRACTION "?", "\\p{N}{1,3}") },
        },
        {
                .names = { "tekken" },
                .flags = FAMILY_IGNORE_MERGES,
                .stages = { CASED("", "\\p{N}") },
        },
};

struct pretokenizer {
        const struct family *family;
        pcre2_code *stages[STAGES_MAX];
        size_t n_stages;
};

/* One call of pretokenizer_split(). */
struct split {
        const struct pretokenizer *pretokenizer;
        pcre2_match_data *match;
        pcre2_match_context *context;
        pretokenizer_word word;
        void *userdata;
};

static void code_freep(pcre2_code **code) {
        pcre2_code_free(*code);
}

static void match_data_freep(pcre2_match_data **match) {
        pcre2_match_data_free(*match);
}

static void match_context_freep(pcre2_match_context **context) {
        pcre2_match_context_free(*context);
}

static const struct family *family_find(struct gguf_string name) {
        for (size_t i = 0; i < ELEMENTS(families); i++)
                for (size_t k = 0; k < NAMES_MAX && families[i].names[k]; k++)
                        if (gguf_string_equal(name, families[i].names[k]))
                                return &families[i];
        return NULL;
}

static void refuse_name(struct gguf_string name, struct reason *reason) {
        char known[160] = "";

        for (size_t i = 0; i < ELEMENTS(families); i++) {
                const size_t used = strlen(known);

                snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", families[i].names[0]);
        }
        reason_set(reason, "the pre-tokenizer '%.*s' is unknown; known are %s",
                   (int) MIN(name.size, UINT64_C(40)), name.data, known);
}

static int compile_stage(pcre2_code **ret, const char *pattern) {
        _cleanup_(code_freep) pcre2_code *code = NULL;
        PCRE2_SIZE offset;
        int error;

        code = pcre2_compile((PCRE2_SPTR) pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                             &offset, NULL);
        if (!code)
                return error == PCRE2_ERROR_HEAP_FAILED ? -ENOMEM : -EINVAL;
        /* Where no memory may be both written and executed the interpreter gives the same answers, slower. */
        (void) pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
        *ret = steal_ptr(code);
        return 0;
}

static void pretokenizer_freep(struct pretokenizer **p) {
        pretokenizer_free(*p);
}

int pretokenizer_new(struct pretokenizer **ret, struct gguf_string name, struct reason *reason) {
        _cleanup_(pretokenizer_freep) struct pretokenizer *p = NULL;
        const struct family *family = family_find(name);
        int r;

        if (!family) {
                refuse_name(name, reason);
                return PRETOKENIZER_E_UNKNOWN;
        }
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        p->family = family;
        for (; p->n_stages < STAGES_MAX && family->stages[p->n_stages]; p->n_stages++) {
                r = compile_stage(&p->stages[p->n_stages], family->stages[p->n_stages]);
                if (r)
                        return r;
        }
        *ret = steal_ptr(p);
        return 0;
}

void pretokenizer_free(struct pretokenizer *p) {
        if (!p)
                return;
        for (size_t i = 0; i < p->n_stages; i++)
                pcre2_code_free(p->stages[i]);
        free(p);
}

/* From stage `stage` on; the recursion is as deep as there are stages. */
static int split_stage(struct split *s, size_t stage, const char *text, size_t n) {
        const struct pretokenizer *p = s->pretokenizer;
        size_t done = 0;
        int r;

        if (n == 0)
                return 0;
        if (stage == p->n_stages)
                return s->word(s->userdata, text, n);
        while (done < n) {
                const PCRE2_SIZE *found;
                size_t start, end;

                r = pcre2_match(p->stages[stage], (PCRE2_SPTR) text, n, done,
                                PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, s->match, s->context);
                if (r == PCRE2_ERROR_NOMATCH)
                        break;
                if (r < 0)
                        return r == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EOVERFLOW;
                found = pcre2_get_ovector_pointer(s->match);
                start = found[0];
                end = found[1];
                r = split_stage(s, stage + 1, text + done, start - done);
                if (r == 0)
                        r = split_stage(s, stage + 1, text + start, end - start);
                if (r)
                        return r;
                done = end;
        }
        return split_stage(s, stage + 1, text + done, n - done);
}

int pretokenizer_split(const struct pretokenizer *p, const char *text, size_t n, pretokenizer_word word,
                       void *userdata) {
        _cleanup_(match_context_freep) pcre2_match_context *context = pcre2_match_context_create(NULL);
        _cleanup_(match_data_freep) pcre2_match_data *match = pcre2_match_data_create(1, NULL);
        struct split s = {
                .pretokenizer = p,
                .match = match,
                .context = context,
                .word = word,
                .userdata = userdata,
        };

        if (!context || !match)
                return -ENOMEM;
        /* A step or two for each byte is what these expressions take; a fixed one would refuse long words. */
        pcre2_set_match_limit(context, (uint32_t) MIN((uint64_t) n * 16 + 1000000, (uint64_t) UINT32_MAX));
        return split_stage(&s, 0, text, n);
}

bool pretokenizer_nfc(const struct pretokenizer *p) {
        return p->family->flags & FAMILY_NFC;
}

bool pretokenizer_ignores_merges(const struct pretokenizer *p) {
        return p->family->flags & FAMILY_IGNORE_MERGES;
}

bool pretokenizer_adds_bos(const struct pretokenizer *p) {
        return p->family->flags & FAMILY_ADD_BOS;
}
