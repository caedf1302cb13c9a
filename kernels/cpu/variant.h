/* SPDX-License-Identifier: MIT */
#pragma once

/* The functions that exist once per instruction set. Each variant computes an output in an order that depends
 * on its own row only, so that a variant's bits do not depend on how many rows a call has (promise P2);
 * between variants results differ by rounding. */

#include "ref.h"

/* y[t][row] = w[row] · x[t] (+ bias[row]), or with `accumulate` y[t][row] += scale[t] × that, for begin ≤ row < end and
 * t < n. */
struct dot_job {
        const uint8_t *w; /* row 0; row_bytes between rows */
        size_t row_bytes;
        uint32_t cols, begin, end, n;
        const uint8_t *next;  /* weights of the same type and cols that will be read after these, to be fetched early */
        uint32_t next_rows;   /* how many; 0: none */
        const void *const *x; /* [n] rows in the type's dot_input() form */
        const void *panels;   /* the same rows as the variant's panel_pack() makes them, 16 to a panel, or NULL */
        float *const *y;      /* [n] */
        /* Instead of y, of a variant with pack_columns: a prompt's results with sixteen activation rows at a time side
         * by side, [n / 16][end - begin][16]; neither accumulated nor scaled. */
        float *columns;
        const float *bias;    /* or NULL */
        bool accumulate;
        const float *scale;   /* [n], or NULL: 1 */
};

typedef void dot_fn(const struct dot_job *job);

/* How many of n activation rows are multiplied at a time where no more than `most` can be: equal parts of whole
 * bundles, for each part takes all weights anew. */
static inline uint32_t rows_at_a_time(uint32_t n, uint32_t most, uint32_t bundle) {
        uint32_t parts = MAX(DIV_ROUND_UP(n, most), 1U);

        return MAX(DIV_ROUND_UP(n, bundle * parts), 1U) * bundle;
}

/* y[t][c] += Σ_r x[t][r] × w[r][c] for t < n and c < cols, r rising; each product is added as it is made. */
struct mix_job {
        const float *w; /* cols floats between rows */
        uint32_t rows, cols, n;
        const float *x; /* x_stride floats between rows t */
        float *y;
        size_t x_stride, y_stride;
};

/* What attention over some of a row's keys comes to (arXiv 1805.02867), for each (row, head) of a job: the largest
 * score, the sum of exp(score - max), and with the same weights the sum of the values. No key: sum is 0. `max` is
 * a bound on the scores as good as the largest. */
struct attention_part {
        float *max, *sum; /* [pairs] */
        float *out;       /* [pairs][v_dim] */
};

/* Rows `first` to `first + rows` of the batch, all of one sequence, and the heads [head, head + heads) of
 * them, all of one kv head: what the keys at positions [begin, end) contribute. `begin` is a multiple of
 * ATTENTION_SPLIT, `end` at most the next. Sinks are not among the keys. */
struct attention_job {
        const struct op_attention *op;
        uint32_t first, rows, head, heads;
        uint32_t begin, end;
        struct attention_part part;
        void *scratch; /* attention_scratch() bytes, aligned to 64 */
};

/* The same of one row of a sparse attention, whose keys are numbered as in struct sparse_keys: [begin, end), begin a
 * multiple of SPARSE_SPLIT. */
struct sparse_job {
        const struct op_sparse_attention *op;
        const struct sparse_keys *keys;
        uint32_t row, head, heads;
        uint32_t begin, end;
        struct attention_part part;
        void *scratch; /* as that of attention */
};

/* Scores of the entries [begin, end) for rows of one sequence: scores[r × stride + i]. begin is a multiple of
 * INDEX_SPLIT. A row gets scores of entries that it does not see, too, none of them of use. */
struct index_job {
        const struct op_index *op;
        uint32_t first, rows;
        uint32_t begin, end;
        float *scores;
        size_t stride;
        void *scratch; /* index_scratch() bytes, aligned to 64 */
        bool again;    /* the scratch is as a job of the same rows has left it */
};

enum {
        ATTENTION_SPLIT = 1024, /* keys that one job sees */
        SPARSE_SPLIT = 256,
        INDEX_SPLIT = 2048,
        INDEX_ROWS = 16, /* most rows of a job */
        INDEX_BLOCK = 32, /* entries at once */
        ATTENTION_PAIRS = 256,  /* most rows × heads of a job */
        ATTENTION_BLOCK = 128,  /* keys between two looks at the maximum, at most */
        ATTENTION_STAGE = 512 * 1024, /* bytes of keys and values that wait in the second cache */
};

/* First key that a row at `position` sees. */
static inline uint32_t attention_first(const struct op_attention *op, uint32_t position) {
        return op->window && position >= op->window ? position - op->window + 1 : 0;
}

/* Bytes that a job with so many pairs may use, whichever variant computes it. */
size_t attention_scratch(const struct kv_layer *kv, uint32_t pairs);
size_t index_scratch(const struct op_index *op);

struct cpu_variant {
        const char *name;
        uint32_t needs; /* CPU_* bits, all of them */
        bool kv_bf16;   /* keys and values are multiplied as bfloat16, so they are best kept as that; else as float16 */
        /* By type: the definition's values, only faster; NULL: none. cpu_variant_dequantize() knows them all. */
        dequantize_fn *const *dequantize;
        to_half_fn *to_f16, *to_bf16;
        void (*dot_input)(enum dot_input input, void *dst, const float *src, uint32_t cols);
        void (*mix)(const struct mix_job *job);
        void (*rms_norm)(const struct op_rms_norm *op, uint32_t begin, uint32_t end);
        void (*layer_norm)(const struct op_layer_norm *op, uint32_t begin, uint32_t end);
        void (*rope)(const struct op_rope *op, uint32_t begin, uint32_t end);
        route_fn *route;
        channels_add_fn *channels_add;
        void (*hyper_in)(const struct op_hyper *op, uint32_t begin, uint32_t end);
        void (*hyper_out)(const struct op_hyper *op, uint32_t begin, uint32_t end);
        void (*glu)(const struct op_glu *op, uint32_t begin, uint32_t end);
        void (*add)(const struct op_add *op, uint64_t begin, uint64_t end);
        /* NULL: the reference's, of whole rows. */
        void (*attention)(const struct attention_job *job);
        /* Of bfloat16 keys only. NULL: what is written in terms of dot. */
        void (*sparse_attention)(const struct sparse_job *job);
        void (*index)(const struct index_job *job);
        bool (*can_index)(const struct op_index *op); /* whether index() can do it; NULL with index */
        /* choose_best(); NULL: that itself. */
        void (*choose)(int32_t *chosen, const float *scores, uint32_t n, uint32_t k);
        /* y = a y + b x */
        void (*blend)(float *y, float a, const float *x, float b, uint32_t n);
        dot_fn *dot[_QUANT_MAX]; /* of types with a kernel of their own: cpu_variant_dot() knows them all */
        /* Where rows are wanted as panels: for jobs of at least so many rows of a type, 0: for none. All else is
         * undefined then. A panel takes panel_bytes() and is aligned to 4096 bytes. */
        uint32_t (*panel_rows)(enum quant_type type);
        size_t (*panel_bytes)(enum dot_input form, uint32_t cols);
        void (*panel_pack)(enum dot_input form, void *panel, const void *const *x, uint32_t n, uint32_t cols);
        /* Or NULL: columns [at, at + n) of a panel of DOT_Q8_256, from x [n][16]: the bits that panel_pack() makes of
         * rows that dot_input() has converted, but not what prompts do without. `at` is a multiple of 256, and so is n,
         * unless they are the last ones. */
        void (*pack_columns)(void *panel, const float *x, uint32_t at, uint32_t n, uint32_t cols);
        /* For types that are multiplied with float32 activations, where there are panels. */
        void (*dot_panels)(const struct dot_job *job, enum quant_type type);
        /* For types that are multiplied with 8-bit activations and have no kernel of their own, if there are any. */
        void (*dot_whole)(const struct dot_job *job, enum quant_type type);
        /* The form that prompt rows (op.h) take for weights of a type: DOT_BF16 or DOT_Q8_256, or DOT_FLOAT where they
         * are computed as all others are; and their product, of panels in that form: `x` is not used. NULL: all are. */
        enum dot_input (*prompt_form)(enum quant_type type);
        void (*dot_prompt)(const struct dot_job *job, enum quant_type type);
};

/* Best first; the last needs nothing. Tests and the benchmark walk this same table. */
extern const struct cpu_variant *const cpu_variants[];
extern const unsigned n_cpu_variants;

extern const struct cpu_variant cpu_variant_amx, cpu_variant_avx512, cpu_variant_avx2;
extern const struct cpu_variant cpu_variant_i8mm, cpu_variant_neon;
extern const struct cpu_variant cpu_variant_c;

/* What the variant "c" is made of: for others that have nothing faster. */
void dot_c(const struct dot_job *job, enum quant_type type);
dot_fn dot_f32_c, dot_f16_c, dot_bf16_c;
void mix_c(const struct mix_job *job);
void blend_c(float *y, float a, const float *x, float b, uint32_t n);

#define ROWS_MEMBERS_C                                                                                       \
        .to_f16 = ref_to_f16, .to_bf16 = ref_to_bf16, .dot_input = ref_dot_input, .mix = mix_c,              \
        .rms_norm = ref_rms_norm, .layer_norm = ref_layer_norm, .rope = ref_rope, .route = ref_route,        \
        .channels_add = ref_channels_add, .hyper_in = ref_hyper_in, .hyper_out = ref_hyper_out,              \
        .glu = ref_glu, .add = ref_add, .blend = blend_c

#define DOT_MEMBERS_C [QUANT_F32] = dot_f32_c, [QUANT_F16] = dot_f16_c, [QUANT_BF16] = dot_bf16_c

/* The best variant that these CPU bits allow, at most the one named (NULL: any). NULL: no variant has that
 * name. */
const struct cpu_variant *cpu_variant_choose(const char *name, uint32_t cpu_bits);

static inline enum quant_type cpu_kv_type(const struct cpu_variant *v) {
        return v->kv_bf16 ? QUANT_BF16 : QUANT_F16;
}

/* The job with the variant's kernel for a type with quant_info()->weights; one without takes float32 activations, and
 * is dequantised on the way. */
void cpu_variant_dot(const struct cpu_variant *v, enum quant_type type, const struct dot_job *job);

/* The type's values, exactly those of its definition. */
dequantize_fn *cpu_variant_dequantize(const struct cpu_variant *v, enum quant_type type);

/* The end of every dot kernel: `v` is w[row] · x[t]. */
static inline void dot_store(const struct dot_job *job, uint32_t t, uint32_t row, float v) {
        float *y = job->y[t] + row;

        if (job->bias)
                v += job->bias[row];
        if (job->scale)
                v *= job->scale[t];
        *y = job->accumulate ? *y + v : v;
}
