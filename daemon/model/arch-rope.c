/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "base/util.h"

struct scaling {
        enum { SCALING_NONE, SCALING_LINEAR, SCALING_YARN } kind;
        double base, factor;
        /* YaRN: pairs below `low` keep their frequency, those above `high` are interpolated. */
        double low, high;
        double magnitude;
};

static int read_base(struct arch_model *m, const struct gguf *g, const char *name, float otherwise,
                     struct scaling *s, struct reason *reason) {
        float base;

        if (arch_get_f32(m, g, name, otherwise, &base, reason))
                return ARCH_E_REFUSED;
        if (base <= 1.0f)
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s.%s is %g, expected more than 1",
                                     gguf_name(g), m->arch->name, name, (double) base);
        s->base = base;
        return 0;
}

static int read_kind(struct arch_model *m, const struct gguf *g, struct scaling *s, struct reason *reason) {
        struct gguf_string kind;
        char key[96];

        arch_key(m, "rope.scaling.type", key);
        if (!gguf_has(g, key)) {
                /* Files older than the key carry only the factor of linear scaling. */
                s->kind = gguf_has(g, arch_key(m, "rope.scale_linear", key)) ? SCALING_LINEAR : SCALING_NONE;
                return 0;
        }
        if (gguf_get_string(g, key, &kind, reason))
                return ARCH_E_REFUSED;
        if (gguf_string_equal(kind, "none"))
                s->kind = SCALING_NONE;
        else if (gguf_string_equal(kind, "linear"))
                s->kind = SCALING_LINEAR;
        else if (gguf_string_equal(kind, "yarn"))
                s->kind = SCALING_YARN;
        else
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %s is \"%.*s\"; known are none, linear, yarn", gguf_name(g), key,
                                     (int) MIN(kind.size, 40u), kind.data);
        return 0;
}

static int read_factor(struct arch_model *m, const struct gguf *g, struct scaling *s, struct reason *reason) {
        float linear, factor;

        if (arch_get_f32(m, g, "rope.scale_linear", 1.0f, &linear, reason) ||
            arch_get_f32(m, g, "rope.scaling.factor", linear, &factor, reason))
                return ARCH_E_REFUSED;
        if (factor <= 0.0f)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %s.rope.scaling.factor is %g, expected more than 0", gguf_name(g),
                                     m->arch->name, (double) factor);
        s->factor = factor;
        return 0;
}

/* The pair that turns `turns` times within the context of the training: arXiv 2309.00071, section 3.2. */
static double yarn_pair(const struct scaling *s, uint32_t dims, double context, double turns) {
        return dims * log(context / (turns * 2.0 * M_PI)) / (2.0 * log(s->base));
}

static int read_yarn(struct arch_model *m, const struct gguf *g, struct scaling *s, struct reason *reason) {
        uint32_t dims = m->params.rope_dims, context;
        float fast, slow, magnitude, multiplier;

        if (arch_get_u32(m, g, "rope.scaling.original_context_length", m->params.context, &context, reason) ||
            arch_get_f32(m, g, "rope.scaling.yarn_beta_fast", 32.0f, &fast, reason) ||
            arch_get_f32(m, g, "rope.scaling.yarn_beta_slow", 1.0f, &slow, reason) ||
            arch_get_f32(m, g, "rope.scaling.attn_factor", 0.0f, &magnitude, reason) ||
            arch_get_f32(m, g, "rope.scaling.yarn_log_multiplier", 0.0f, &multiplier, reason))
                return ARCH_E_REFUSED;
        if (context == 0 || fast <= 0.0f || slow <= 0.0f || magnitude < 0.0f)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: a number of %s.rope.scaling.* is not positive", gguf_name(g),
                                     m->arch->name);
        s->low = yarn_pair(s, dims, context, fast);
        s->high = yarn_pair(s, dims, context, slow);
        s->low = fmax(m->arch->yarn_exact ? s->low : floor(s->low), 0.0);
        s->high = fmin(m->arch->yarn_exact ? s->high : ceil(s->high), dims - 1.0);
        if (s->high == s->low)
                s->high += 0.001;
        if (m->arch->yarn_on_scale) {
                m->params.attention_scale *= (float) pow(multiplier * log(s->factor) + 1.0, 2.0);
                return 0;
        }
        s->magnitude = magnitude > 0.0f ? magnitude : s->factor > 1.0 ? 0.1 * log(s->factor) + 1.0 : 1.0;
        return 0;
}

static double scaled(const struct scaling *s, double frequency, double pair) {
        double ramp;

        switch (s->kind) {
        case SCALING_NONE:
                return frequency;
        case SCALING_LINEAR:
                return frequency / s->factor;
        case SCALING_YARN:
                ramp = fmin(fmax((pair - s->low) / (s->high - s->low), 0.0), 1.0);
                return frequency / s->factor * ramp + frequency * (1.0 - ramp);
        }
        return frequency;
}

/* `rope_freqs.weight`: a divisor for each pair, as the converter made it from Llama 3.1's rule. */
static int divide(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        const struct gguf_tensor *t = m->tensors[ARCH_ROPE_FREQS];

        for (uint32_t i = 0; t && i < m->params.rope_dims / 2; i++) {
                float divisor;

                memcpy(&divisor, (const char *) t->data + i * sizeof(divisor), sizeof(divisor));
                if (!isfinite(divisor) || divisor <= 0.0f)
                        return reason_return(reason, ARCH_E_REFUSED,
                                             "%s: rope_freqs.weight[%u] is %g, expected more than 0",
                                             gguf_name(g), i, (double) divisor);
                m->ropes[ARCH_ROPE_MAIN].frequencies[i] /= divisor;
        }
        return 0;
}

static int make(struct arch_model *m, const struct scaling *s, struct arch_rope *ret) {
        uint32_t dims = m->params.rope_dims;

        ret->frequencies = calloc(dims / 2, sizeof(*ret->frequencies));
        if (!ret->frequencies)
                return -ENOMEM;
        for (uint32_t i = 0; i < dims / 2; i++)
                ret->frequencies[i] = (float) scaled(s, pow(s->base, -2.0 * i / dims), i);
        ret->magnitude = (float) s->magnitude;
        return 0;
}

static int read_main(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct scaling s = { .factor = 1.0, .magnitude = 1.0 };
        const char *base = m->arch->rope_base ? m->arch->rope_base : "rope.freq_base";
        int r;

        r = read_base(m, g, base, 10000.0f, &s, reason);
        if (!r)
                r = read_kind(m, g, &s, reason);
        if (!r && s.kind != SCALING_NONE)
                r = read_factor(m, g, &s, reason);
        if (!r && s.kind == SCALING_YARN)
                r = read_yarn(m, g, &s, reason);
        if (!r)
                r = make(m, &s, &m->ropes[ARCH_ROPE_MAIN]);
        return r ? r : divide(m, g, reason);
}

int arch_read_rope(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct scaling s = { .factor = 1.0, .magnitude = 1.0 };
        int r;

        r = read_main(m, g, reason);
        if (r || !m->arch->rope_base_local)
                return r;
        r = read_base(m, g, m->arch->rope_base_local, 10000.0f, &s, reason);
        return r ? r : make(m, &s, &m->ropes[ARCH_ROPE_LOCAL]);
}
