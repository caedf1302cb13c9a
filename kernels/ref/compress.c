/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

/* What has been summed up of an entry; [dim] each. */
struct sums {
        float *max, *weight, *value;
};

static struct sums sums_at(const struct op_compress *op, int32_t page, uint32_t half) {
        uint32_t halves = op->overlap ? 2 : 1;
        float *at = (float *) host_address(op->state) + ((size_t) page * halves + half) * 3 * op->dim;

        return (struct sums){at, at + op->dim, at + 2 * (size_t) op->dim};
}

static void sums_clear(const struct sums *s, uint32_t begin, uint32_t end) {
        for (uint32_t c = begin; c < end; c++) {
                s->max[c] = -INFINITY;
                s->weight[c] = s->value[c] = 0.0f;
        }
}

static void sums_move(const struct sums *to, const struct sums *from, uint32_t begin, uint32_t end) {
        memcpy(to->max + begin, from->max + begin, (end - begin) * sizeof(float));
        memcpy(to->weight + begin, from->weight + begin, (end - begin) * sizeof(float));
        memcpy(to->value + begin, from->value + begin, (end - begin) * sizeof(float));
}

static void sums_add(const struct sums *s, const float *v, const float *g, const float *bias, uint32_t begin,
                     uint32_t end) {
        for (uint32_t c = begin; c < end; c++) {
                float logit = g[c] + bias[c], max = fmaxf(s->max[c], logit);
                float correction = expf(s->max[c] - max), p = expf(logit - max);

                s->max[c] = max;
                s->weight[c] = s->weight[c] * correction + p;
                s->value[c] = s->value[c] * correction + p * v[c];
        }
}

/* Brings a row's page to what was left in the page of the position before. */
static void enter_page(const struct op_compress *op, const int32_t *pages, uint32_t position, uint32_t begin,
                       uint32_t end) {
        for (uint32_t half = 0; half < (op->overlap ? 2U : 1U); half++) {
                struct sums to = sums_at(op, pages[position / KV_PAGE_TOKENS], half), from;

                if (position == 0) {
                        sums_clear(&to, begin, end);
                } else if (position % KV_PAGE_TOKENS == 0) {
                        from = sums_at(op, pages[position / KV_PAGE_TOKENS - 1], half);
                        sums_move(&to, &from, begin, end);
                }
        }
}

static void compress_row(const struct op_compress *op, uint32_t t, const int32_t *pages, uint32_t position,
                         uint32_t begin, uint32_t end) {
        size_t width = (size_t) op->dim * (op->overlap ? 2 : 1), own = op->overlap ? op->dim : 0;
        const float *v = (const float *) host_address(op->v) + t * width;
        const float *g = (const float *) host_address(op->g) + t * width;
        const float *bias = (const float *) host_address(op->bias) + position % op->ratio * width;
        float *y = (float *) host_address(op->y) + (size_t) t * op->dim;
        struct sums entry = sums_at(op, pages[position / KV_PAGE_TOKENS], 0), next = entry;

        sums_add(&entry, v + own, g + own, bias + own, begin, end);
        if (op->overlap) {
                next = sums_at(op, pages[position / KV_PAGE_TOKENS], 1);
                sums_add(&next, v, g, bias, begin, end);
        }
        if ((position + 1) % op->ratio != 0) {
                memset(y + begin, 0, (end - begin) * sizeof(*y));
                return;
        }
        for (uint32_t c = begin; c < end; c++)
                y[c] = entry.value[c] / entry.weight[c];
        if (op->overlap)
                sums_move(&entry, &next, begin, end);
        sums_clear(&next, begin, end);
}

void ref_compress(const struct op_compress *op, uint32_t begin, uint32_t end) {
        const int32_t *positions = host_address(op->rows.positions),
                      *sequences = host_address(op->rows.sequences);

        for (uint32_t t = 0; t < op->rows.n; t++) {
                const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                                       (size_t) sequences[t] * op->rows.page_table_stride;

                enter_page(op, pages, (uint32_t) positions[t], begin, end);
                compress_row(op, t, pages, (uint32_t) positions[t], begin, end);
        }
}
