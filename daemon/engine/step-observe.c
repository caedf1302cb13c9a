/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "step.h"

int step_observe(struct step *s, const struct step_observer *observer) {
        int r;

        if (observer) {
                r = step_memory_observe(s);
                if (r)
                        return r;
        }
        s->observer = observer;
        return 0;
}

static int fetch(struct step *s, void *dst, struct device_ptr src, uint64_t width) {
        return s->model->backend->ops->download(s->stream, dst, src, s->batch.rows * width * 4);
}

int step_observe_begin(struct step *s) {
        int r;

        r = fetch(s, s->seen.input, step_rows(s), step_width(s));
        if (!r)
                r = s->model->backend->ops->stream_sync(s->stream);
        return r;
}

static int fetch_choice(struct step *s, struct step_view *view) {
        uint32_t k = s->model->arch.params.experts_used;
        int r;

        r = fetch(s, s->seen.ids, s->a.expert_ids, k);
        if (!r)
                r = fetch(s, s->seen.weights, s->a.expert_weights, k);
        if (!r)
                r = fetch(s, s->seen.counts, s->a.expert_counts, 1);
        view->k = k;
        view->expert_ids = s->seen.ids;
        view->expert_weights = s->seen.weights;
        view->expert_counts = s->seen.counts;
        return r;
}

int step_observe_layer(struct step *s, uint32_t layer) {
        float *input = s->seen.input, *output = s->seen.output;
        struct step_view view = {
                .layer = layer, .rows = s->batch.rows, .hidden = step_width(s),
                .input = input, .output = output,
        };
        int r = 0;

        if (s->model->arch.layers[layer].parts & ARCH_MOE)
                r = fetch_choice(s, &view);
        if (!r && s->model->arch.layers[layer].parts & ARCH_INDEXER) {
                view.chosen_k = s->model->arch.params.index_k;
                view.chosen = s->seen.chosen;
                r = fetch(s, s->seen.chosen, s->a.chosen, view.chosen_k);
        }
        if (!r)
                r = fetch(s, output, step_rows(s), view.hidden);
        if (!r)
                r = s->model->backend->ops->stream_sync(s->stream);
        if (r)
                return r;
        s->observer->layer(&view, s->observer->context);
        /* The output of this layer is the input of the next. */
        s->seen.input = output;
        s->seen.output = input;
        return 0;
}
