/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "host.h"
#include "ref.h"

static float sigmoid(float x) {
        return 1.0f / (1.0f + expf(-x));
}

static size_t mix_width(const struct op_hyper *op) {
        return op->head ? op->streams : (2 + (size_t) op->streams) * op->streams;
}

static float *mix_of(const struct op_hyper *op, size_t t) {
        return (float *) host_address(op->mix) + t * mix_width(op);
}

static void softmax_rows(float *c, uint32_t n, float epsilon) {
        for (uint32_t j = 0; j < n; j++, c += n) {
                float max = c[0], sum = 0.0f;

                for (uint32_t k = 1; k < n; k++)
                        max = fmaxf(max, c[k]);
                for (uint32_t k = 0; k < n; k++) {
                        c[k] = expf(c[k] - max);
                        sum += c[k];
                }
                for (uint32_t k = 0; k < n; k++)
                        c[k] = c[k] / sum + epsilon;
        }
}

/* Divides by the sums of n lines whose values are `step` apart; lines are `line` apart. */
static void divide(float *c, uint32_t n, uint32_t line, uint32_t step, float epsilon) {
        for (uint32_t i = 0; i < n; i++) {
                float *at = c + (size_t) i * line, sum = 0.0f;

                for (uint32_t j = 0; j < n; j++)
                        sum += at[j * step];
                for (uint32_t j = 0; j < n; j++)
                        at[j * step] /= sum + epsilon;
        }
}

void ref_hyper_mix(const struct op_hyper *op, uint32_t begin, uint32_t end) {
        const float *base = host_address(op->base), *scale = host_address(op->scale);
        uint32_t n = op->streams;

        for (uint32_t t = begin; t < end; t++) {
                float *z = mix_of(op, t), *c = z + 2 * n;

                for (uint32_t i = 0; i < n; i++)
                        z[i] = sigmoid(scale[0] * z[i] + base[i]) + op->epsilon;
                if (op->head)
                        continue;
                for (uint32_t i = n; i < 2 * n; i++)
                        z[i] = 2.0f * sigmoid(scale[1] * z[i] + base[i]);
                for (uint32_t i = 0; i < n * n; i++)
                        c[i] = scale[2] * c[i] + base[2 * n + i];
                softmax_rows(c, n, op->epsilon);
                divide(c, n, 1, n, op->epsilon);
                for (uint32_t i = 1; i < op->iterations; i++) {
                        divide(c, n, n, 1, op->epsilon);
                        divide(c, n, 1, n, op->epsilon);
                }
        }
}

void ref_hyper_in(const struct op_hyper *op, uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++) {
                const float *pre = mix_of(op, t);
                const float *x = (const float *) host_address(op->x) + (size_t) t * op->streams * op->dim;
                float *y = (float *) host_address(op->y) + (size_t) t * op->dim;

                for (uint32_t c = 0; c < op->dim; c++) {
                        float sum = 0.0f;

                        for (uint32_t i = 0; i < op->streams; i++)
                                sum += pre[i] * x[(size_t) i * op->dim + c];
                        y[c] = sum;
                }
        }
}

void ref_hyper_out(const struct op_hyper *op, uint32_t begin, uint32_t end) {
        uint32_t n = op->streams;

        for (uint32_t t = begin; t < end; t++) {
                const float *post = mix_of(op, t) + n, *mix = post + n;
                const float *y = (const float *) host_address(op->y) + (size_t) t * op->dim;
                float *x = (float *) host_address(op->x) + (size_t) t * n * op->dim;

                for (uint32_t c = 0; c < op->dim; c++) {
                        float old[HYPER_STREAMS_MAX];

                        for (uint32_t j = 0; j < n; j++)
                                old[j] = x[(size_t) j * op->dim + c];
                        for (uint32_t k = 0; k < n; k++) {
                                float sum = post[k] * y[c];

                                for (uint32_t j = 0; j < n; j++)
                                        sum += mix[j * n + k] * old[j];
                                x[(size_t) k * op->dim + c] = sum;
                        }
                }
        }
}
