/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "model.h"

/* The arena as it is being laid out: plane after plane, each with something for every page. */
struct layout {
        struct device_ptr base;
        uint64_t pages, page_bytes; /* so far, of one page */
};

/* Planes begin where numbers of any size may lie. */
static struct device_ptr layout_add(struct layout *l, uint64_t page_bytes) {
        struct device_ptr at = device_offset(l->base, l->pages * l->page_bytes);

        l->page_bytes += (page_bytes + 63) & ~UINT64_C(63);
        return at;
}

static uint64_t plane_bytes(const struct kv_layer *kv, uint32_t dim) {
        return (uint64_t) kv_page_entries(kv->ratio) * kv->kv_heads * dim *
               quant_row_bytes(quant_info(kv->type), 1);
}

/* A plane of keys of one head, whose values are part of them. */
static struct kv_layer keys_add(struct layout *l, enum quant_type type, uint32_t k_dim, uint32_t v_dim,
                                uint32_t ratio) {
        struct kv_layer kv = { .type = type, .kv_heads = 1, .k_dim = k_dim, .v_dim = v_dim, .ratio = ratio };

        kv.k = layout_add(l, plane_bytes(&kv, k_dim));
        return kv;
}

/* A compressor's sums (op_compress). */
static struct device_ptr state_add(struct layout *l, uint32_t halves, uint32_t dim) {
        return layout_add(l, (uint64_t) halves * 3 * dim * sizeof(float));
}

static void place_layer(struct model *m, uint32_t index, enum quant_type type, struct layout *l) {
        const struct arch_params *h = &m->arch.params;
        uint32_t parts = m->arch.layers[index].parts;
        struct model_layer *layer = &m->layers[index];

        if (parts & (ARCH_MLA | ARCH_WINDOWED)) {
                layer->kv = keys_add(l, type, h->k_dim, h->v_dim, 0);
        } else {
                layer->kv = (struct kv_layer) { .type = type, .kv_heads = h->kv_heads, .k_dim = h->k_dim,
                                                .v_dim = h->v_dim };
                layer->kv.k = layout_add(l, plane_bytes(&layer->kv, h->k_dim));
                layer->kv.v = layout_add(l, plane_bytes(&layer->kv, h->v_dim));
        }
        if (parts & ARCH_INDEX_KEYS)
                layer->index = keys_add(l, type, h->index_dim, 0, 0);
        if (parts & ARCH_CSA) {
                layer->entries = keys_add(l, type, h->k_dim, h->v_dim, h->csa_ratio);
                layer->index = keys_add(l, type, h->index_dim, 0, h->csa_ratio);
                layer->state = state_add(l, 2, h->k_dim);
                layer->index_state = state_add(l, 2, h->index_dim);
        }
        if (parts & ARCH_HCA) {
                layer->entries = keys_add(l, type, h->k_dim, h->v_dim, h->hca_ratio);
                layer->state = state_add(l, 1, h->k_dim);
        }
        if (parts & ARCH_MOE)
                layer->budget = layout_add(l, KV_PAGE_TOKENS * sizeof(struct route_state));
        if (parts & ARCH_MOE && h->capacity > 0)
                layer->chosen = layout_add(l, (uint64_t) KV_PAGE_TOKENS * h->experts_used * sizeof(uint16_t));
        m->whole_pages |= parts & (ARCH_CSA | ARCH_HCA);
}

/* Returns the bytes of a page over all layers. */
static uint64_t place_kv(struct model *m, enum quant_type type, struct device_ptr at) {
        struct layout l = { .base = at, .pages = m->pages.n };

        for (uint32_t i = 0; i < m->arch.params.layers; i++)
                place_layer(m, i, type, &l);
        return l.page_bytes;
}

int model_init_kv(struct model *m, const struct model_options *options, struct reason *reason) {
        const struct arch_params *h = &m->arch.params;
        uint64_t page, pages, context;
        int r;

        if (options->kv_type != QUANT_F16 && options->kv_type != QUANT_BF16 && options->kv_type != QUANT_F32)
                return -EINVAL;
        page = place_kv(m, options->kv_type, DEVICE_NULL);
        /* Pages are stored as i32 on the device. */
        pages = MIN(options->kv_bytes / page, (uint64_t) INT32_MAX);
        if (pages == 0)
                return reason_return(reason, ENGINE_E_MODEL,
                                     "%s: %llu bytes for KV hold no page; one of %d tokens takes %llu",
                                     gguf_name(m->gguf), (unsigned long long) options->kv_bytes,
                                     (int) KV_PAGE_TOKENS, (unsigned long long) page);
        context = options->context_max ? options->context_max : h->context;
        if (!options->context_extend)
                context = MIN(context, h->context);
        m->info.context = (uint32_t) MIN(context, pages * KV_PAGE_TOKENS);
        m->info.kv_bytes_per_token = DIV_ROUND_UP(page, (uint64_t) KV_PAGE_TOKENS);
        m->info.kv_pages = (uint32_t) pages;
        r = kv_pages_init(&m->pages, (uint32_t) pages);
        if (!r)
                r = m->backend->ops->buffer_new(m->backend, pages * page, false, &m->kv);
        if (!r)
                place_kv(m, options->kv_type, m->backend->ops->buffer_address(m->kv));
        return r;
}
