/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "model.h"

/* What a layer keeps of each token. In MLA the value is part of the key. */
static struct kv_layer kv_of(const struct model *m, uint32_t layer, enum quant_type type) {
        const struct arch_params *h = &m->arch.params;

        return (struct kv_layer) { .type = type, .kv_heads = h->kv_heads, .k_dim = h->k_dim, .v_dim = h->v_dim };
}

static bool has_values(const struct model *m, uint32_t layer) {
        return !(m->arch.layers[layer].parts & ARCH_MLA);
}

/* Walks over the arena: for each layer all pages of K, then all pages of V, then those of the indexer's keys. Returns
 * the bytes of a token. */
static uint64_t place_kv(struct model *m, enum quant_type type, struct device_ptr at) {
        uint64_t tokens = (uint64_t) m->pages.n * KV_PAGE_TOKENS, value = quant_row_bytes(quant_info(type), 1), sum = 0;

        for (uint32_t l = 0; l < m->arch.params.layers; l++) {
                struct kv_layer kv = kv_of(m, l, type);

                kv.k = device_offset(at, tokens * sum);
                sum += kv.kv_heads * kv.k_dim * value;
                if (has_values(m, l)) {
                        kv.v = device_offset(at, tokens * sum);
                        sum += kv.kv_heads * kv.v_dim * value;
                }
                m->layers[l].kv = kv;
                if (m->arch.layers[l].parts & ARCH_INDEXER) {
                        m->layers[l].index = (struct kv_layer) {
                                .k = device_offset(at, tokens * sum), .type = type, .kv_heads = 1,
                                .k_dim = m->arch.params.index_dim,
                        };
                        sum += m->arch.params.index_dim * value;
                }
        }
        return sum;
}

int model_init_kv(struct model *m, const struct model_options *options, struct reason *reason) {
        const struct arch_params *h = &m->arch.params;
        uint64_t token, pages, context;
        int r;

        if (options->kv_type != QUANT_F16 && options->kv_type != QUANT_F32)
                return -EINVAL;
        token = place_kv(m, options->kv_type, DEVICE_NULL);
        /* Pages are stored as i32 on the device. */
        pages = MIN(options->kv_bytes / (token * KV_PAGE_TOKENS), (uint64_t) INT32_MAX);
        if (pages == 0)
                return reason_return(reason, ENGINE_E_MODEL,
                                     "%s: %llu bytes for KV hold no page; one of %d tokens takes %llu",
                                     gguf_name(m->gguf), (unsigned long long) options->kv_bytes,
                                     (int) KV_PAGE_TOKENS, (unsigned long long) token * KV_PAGE_TOKENS);
        context = options->context_max ? MIN(options->context_max, h->context) : h->context;
        m->info.context = (uint32_t) MIN(context, pages * KV_PAGE_TOKENS);
        m->info.kv_bytes_per_token = token;
        m->info.kv_pages = (uint32_t) pages;
        r = kv_pages_init(&m->pages, (uint32_t) pages);
        if (!r)
                r = m->backend->ops->buffer_new(m->backend, pages * KV_PAGE_TOKENS * token, &m->kv);
        if (!r)
                place_kv(m, options->kv_type, m->backend->ops->buffer_address(m->kv));
        return r;
}
