/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

/* What has been summed up of an entry, from channel `begin` on. */
static struct channels channels_at(const struct op_compress *op, int32_t page, uint32_t half,
                                   uint32_t begin) {
        uint32_t halves = op->overlap ? 2 : 1;
        size_t dim = op->dim;
        float *at = (float *) host_address(op->state) + ((size_t) page * halves + half) * 3 * dim + begin;

        return (struct channels){at, at + dim, at + 2 * dim};
}

static void channels_clear(const struct channels *s, uint32_t n) {
        for (uint32_t c = 0; c < n; c++) {
                s->max[c] = -INFINITY;
                s->weight[c] = s->value[c] = 0.0f;
        }
}

static void channels_move(const struct channels *to, const struct channels *from, uint32_t n) {
        memcpy(to->max, from->max, n * sizeof(float));
        memcpy(to->weight, from->weight, n * sizeof(float));
        memcpy(to->value, from->value, n * sizeof(float));
}

void ref_channels_add(const struct channels *s, const float *v, const float *g, const float *bias,
                      uint32_t n) {
        for (uint32_t c = 0; c < n; c++) {
                float logit = g[c] + bias[c], max = fmaxf(s->max[c], logit);
                float correction = expf(s->max[c] - max), p = expf(logit - max);

                s->max[c] = max;
                s->weight[c] = s->weight[c] * correction + p;
                s->value[c] = s->value[c] * correction + p * v[c];
        }
}

/* Brings a row's page to what was left in the page of the position before. */
static void enter_page(const struct op_compress *op, const int32_t *pages, uint32_t position, uint32_t begin,
                       uint32_t n) {
        for (uint32_t half = 0; half < (op->overlap ? 2U : 1U); half++) {
                struct channels to = channels_at(op, pages[position / KV_PAGE_TOKENS], half, begin), from;

                if (position == 0) {
                        channels_clear(&to, n);
                } else if (position % KV_PAGE_TOKENS == 0) {
                        from = channels_at(op, pages[position / KV_PAGE_TOKENS - 1], half, begin);
                        channels_move(&to, &from, n);
                }
        }
}

static void compress_row(const struct op_compress *op, channels_add_fn *add, uint32_t t, const int32_t *pages,
                         uint32_t position, uint32_t begin, uint32_t n) {
        size_t width = (size_t) op->dim * (op->overlap ? 2 : 1), own = op->overlap ? op->dim : 0;
        const float *v = (const float *) host_address(op->v) + t * width + begin;
        const float *g = (const float *) host_address(op->g) + t * width + begin;
        const float *bias = (const float *) host_address(op->bias) + position % op->ratio * width + begin;
        float *y = (float *) host_address(op->y) + (size_t) t * op->dim + begin;
        struct channels entry = channels_at(op, pages[position / KV_PAGE_TOKENS], 0, begin), next = entry;

        add(&entry, v + own, g + own, bias + own, n);
        if (op->overlap) {
                next = channels_at(op, pages[position / KV_PAGE_TOKENS], 1, begin);
                add(&next, v, g, bias, n);
        }
        if ((position + 1) % op->ratio != 0) {
                memset(y, 0, n * sizeof(*y));
                return;
        }
        for (uint32_t c = 0; c < n; c++)
                y[c] = entry.value[c] / entry.weight[c];
        if (op->overlap)
                channels_move(&entry, &next, n);
        channels_clear(&next, n);
}

void compress(const struct op_compress *op, channels_add_fn *add, uint32_t begin, uint32_t end) {
        const int32_t *positions = host_address(op->rows.positions),
                      *sequences = host_address(op->rows.sequences);

        for (uint32_t t = 0; t < op->rows.n; t++) {
                const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                                       (size_t) sequences[t] * op->rows.page_table_stride;

                enter_page(op, pages, (uint32_t) positions[t], begin, end - begin);
                compress_row(op, add, t, pages, (uint32_t) positions[t], begin, end - begin);
        }
}
