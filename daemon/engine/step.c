/* SPDX-License-Identifier: MIT */
#include "step.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "allowance.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "host.h"

static const struct backend_ops *ops_of(const struct step *s) {
        return s->model->backend->ops;
}

static int room_new(struct step_room **ret, struct model *model) {
        struct step_room *room = calloc(1, sizeof(*room));
        int r;

        if (!room)
                return -ENOMEM;
        r = model->backend->ops->stream_new(model->backend, &room->stream);
        if (r) {
                free(room);
                return r;
        }
        *ret = room;
        return 0;
}

static void room_unref(struct step_room *room, const struct backend_ops *ops) {
        if (!room || --room->n_ref > 0)
                return;
        ops->stream_free(room->stream);
        ops->buffer_free(room->memory.buffer);
        free(room);
}

static int step_new_in(struct step **ret, struct model *model, struct step_room *room, uint32_t rows_max) {
        _cleanup_(step_freep) struct step *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        s->model = model;
        s->room = room;
        s->stream = room->stream;
        s->rows_max = rows_max;
        room->n_ref++;
        r = step_memory_init(s);
        if (r)
                return r;
        *ret = steal_ptr(s);
        return 0;
}

int step_new(struct step **ret, struct model *model) {
        struct step_room *room;
        int r;

        r = room_new(&room, model);
        if (r)
                return r;
        room->n_ref = 1;
        r = step_new_in(ret, model, room, model->rows_max);
        room_unref(room, model->backend->ops);
        return r;
}

int step_new_beside(struct step **ret, struct step *other, uint32_t rows_max) {
        return step_new_in(ret, other->model, other->room, rows_max);
}

/* The step is over, well or badly: its sequences are free again. */
static void release_parts(struct step *s) {
        for (uint32_t i = 0; i < s->n_parts; i++)
                s->parts[i].sequence->running = false;
        s->parts = NULL;
        s->n_parts = 0;
}

void step_free(struct step *s) {
        if (!s)
                return;
        if (s->parts)
                (void) ops_of(s)->stream_sync(s->stream);
        release_parts(s);
        step_memory_deinit(s);
        room_unref(s->room, ops_of(s));
        free(s);
}

void step_freep(struct step **s) {
        step_free(*s);
}

/* Whether others read what this part would write. */
static bool writes_shared(const struct step_part *p) {
        const struct sequence *q = p->sequence;
        uint32_t end = DIV_ROUND_UP(q->length + p->count, (uint32_t) KV_PAGE_TOKENS);

        for (uint32_t i = q->length / KV_PAGE_TOKENS; i < end; i++)
                if (kv_pages_shared(&q->model->pages, q->pages[i]))
                        return true;
        return false;
}

/* Whether it says something that a step can do, of a sequence that it can have. */
static bool is_sound(const struct step *s, const struct step_part *p) {
        const struct model_info *info = &s->model->info;

        if (p->count == 0 || p->logits > p->count || p->prompt > p->count)
                return false;
        if (p->sequence->model != s->model || p->sequence->running)
                return false;
        return (info->moe_layers == 0 || p->allowances) && !(info->has_capacity && p->ride_experts > 0);
}

static int check_part(const struct step *s, const struct step_part *p) {
        const struct model_info *info = &s->model->info;
        const struct sequence *q = p->sequence;

        if (!is_sound(s, p))
                return -EINVAL;
        if (p->count > info->context - q->length)
                return ENGINE_E_CONTEXT;
        if (DIV_ROUND_UP(q->length + p->count, (uint32_t) KV_PAGE_TOKENS) > q->n_pages)
                return ENGINE_E_PAGES;
        if (writes_shared(p))
                return -EINVAL;
        for (uint32_t i = 0; i < p->count; i++)
                if (p->tokens[i] < 0 || (uint32_t) p->tokens[i] >= info->vocab)
                        return ENGINE_E_TOKEN;
        return 0;
}

/* Adopts the parts, counts their rows; a sequence that is there twice is found by its mark. */
static int take_parts(struct step *s, struct step_part *parts, uint32_t n_parts) {
        struct step_batch *b = &s->batch;
        int r;

        b->rows = b->n_wanted = b->position_max = b->n_groups = s->page_stride = 0;
        s->parts = parts;
        for (uint32_t i = 0; i < n_parts; i++) {
                uint32_t end;

                r = parts[i].group > n_parts ? -EINVAL : check_part(s, &parts[i]);
                if (!r && parts[i].count > s->rows_max - b->rows)
                        r = ENGINE_E_ROWS;
                if (r) {
                        release_parts(s);
                        return r;
                }
                parts[i].sequence->running = true;
                s->n_parts = i + 1;
                end = parts[i].sequence->length + parts[i].count;
                b->rows += parts[i].count;
                if (parts[i].ride_experts > 0)
                        b->n_groups = MAX(b->n_groups, parts[i].group);
                b->n_wanted += parts[i].logits;
                b->position_max = MAX(b->position_max, end - 1);
                s->page_stride = MAX(s->page_stride, DIV_ROUND_UP(end, (uint32_t) KV_PAGE_TOKENS));
        }
        return 0;
}

static void place_arrays(struct step *s) {
        struct step_batch *b = &s->batch;
        struct device_ptr at = s->batch_memory.at;
        uint64_t stride = b->rows * sizeof(int32_t);
        bool prompts = false;

        for (uint32_t i = 0; i < s->n_parts; i++)
                prompts |= s->parts[i].prompt > 0;
        b->ids = b->staged;
        b->positions = b->ids + b->rows;
        b->sequences = b->positions + b->rows;
        b->ones = b->sequences + b->rows;
        b->floors = b->ones + b->rows;
        b->groups = b->floors + b->rows;
        b->bases = b->groups + b->rows;
        b->prompts = b->bases + b->rows;
        b->wanted = b->prompts + b->rows;
        b->caps = b->wanted + b->rows;
        b->device_ids = at;
        b->device_positions = device_offset(at, stride);
        b->device_sequences = device_offset(at, 2 * stride);
        b->device_ones = device_offset(at, 3 * stride);
        b->device_floors = device_offset(at, 4 * stride);
        b->device_groups = device_offset(at, 5 * stride);
        b->device_bases = device_offset(at, 6 * stride);
        b->device_prompts = prompts ? device_offset(at, 7 * stride) : DEVICE_NULL;
        b->device_wanted = device_offset(at, 8 * stride);
        b->device_caps = device_offset(at, STEP_ARRAYS * stride);
}

/* The caps of a row in all MoE layers, thousandths of an expert. */
static void stage_caps(struct step *s, const struct step_part *p, uint32_t i, uint32_t row) {
        const struct model_info *info = &s->model->info;
        int32_t *caps = s->batch.caps + row;
        uint32_t rows = s->batch.rows;

        if (step_has_budget(p, i)) {
                expert_plan_deal(&s->model->file->calibration.plan,
                                 MIN(p->budgets[i].cap_milli, info->experts_used * 1000),
                                 p->budgets[i].min_milli / 1000 * 1000, info->moe_layers, caps, rows);
                return;
        }
        for (uint32_t l = 0; l < info->moe_layers; l++)
                caps[(size_t) l * rows] =
                        (int32_t) allowance_cap(p->allowances[i], l, info->moe_layers, info->experts_used) * 1000;
}

static void stage_row(struct step *s, uint32_t part, uint32_t i, uint32_t row) {
        const struct step_part *p = &s->parts[part];
        const struct model_info *info = &s->model->info;
        struct step_batch *b = &s->batch;

        b->ids[row] = p->tokens[i];
        b->positions[row] = (int32_t) (p->sequence->length + i);
        b->sequences[row] = (int32_t) part;
        b->ones[row] = 1000;
        b->floors[row] = step_has_budget(p, i) ? (int32_t) (p->budgets[i].min_milli / 1000) : -1;
        b->groups[row] = (int32_t) p->group;
        b->bases[row] = (int32_t) MIN(p->ride_experts, info->experts_used);
        b->prompts[row] = i < p->prompt;
        stage_caps(s, p, i, row);
}

static void stage_pages(struct step *s, uint32_t part) {
        const struct step_part *p = &s->parts[part];
        uint32_t n = DIV_ROUND_UP(p->sequence->length + p->count, (uint32_t) KV_PAGE_TOKENS);
        int32_t *pages = s->host_pages + (size_t) part * s->page_stride;

        for (uint32_t i = 0; i < s->page_stride; i++)
                pages[i] = i < n ? (int32_t) p->sequence->pages[i] : -1;
}

static void stage(struct step *s) {
        uint32_t row = 0, wanted = 0;

        place_arrays(s);
        for (uint32_t part = 0; part < s->n_parts; part++) {
                for (uint32_t i = 0; i < s->parts[part].count; i++)
                        stage_row(s, part, i, row++);
                for (uint32_t left = s->parts[part].logits; left > 0; left--)
                        s->batch.wanted[wanted++] = (int32_t) (row - left);
                stage_pages(s, part);
        }
}

static int enqueue_begin(struct step *s) {
        uint64_t arrays = (uint64_t) s->batch.rows * (STEP_ARRAYS + s->model->info.moe_layers);
        int r;

        r = ops_of(s)->upload(s->stream, s->batch_memory.at, s->batch.staged, arrays * sizeof(int32_t));
        if (!r)
                r = ops_of(s)->upload(s->stream, s->page_table.at, s->host_pages,
                                      (uint64_t) s->n_parts * s->page_stride * sizeof(int32_t));
        if (!r)
                r = forward_begin(s);
        if (!r && s->observed)
                r = step_observe_begin(s);
        return r;
}

/* Whatever is still under way must not touch our arrays any more. What a compressor has summed up in the last page may
 * have rows in it already that do not count now. */
static int abandon(struct step *s, int error) {
        (void) ops_of(s)->stream_sync(s->stream);
        for (uint32_t i = 0; i < s->n_parts && s->model->whole_pages; i++) {
                struct sequence *q = s->parts[i].sequence;

                sequence_truncate(q, q->length - q->length % KV_PAGE_TOKENS);
        }
        release_parts(s);
        return error;
}

int step_begin(struct step *s, struct step_part *parts, uint32_t n_parts) {
        int r;

        if (s->parts || n_parts == 0)
                return -EINVAL;
        if (model_file_lost(s->model->file))
                return -ESTALE;
        r = take_parts(s, parts, n_parts);
        if (r)
                return r;
        r = step_memory_grow(s, (uint64_t) n_parts * s->page_stride, s->batch.n_wanted);
        if (r) {
                release_parts(s);
                return r;
        }
        s->observed = s->observer;
        s->layer = 0;
        step_memory_place(s);
        stage(s);
        r = enqueue_begin(s);
        return r ? abandon(s, r) : 0;
}

static void give_results(struct step *s) {
        const float *logits = step_on_host(s) ? host_address(s->logits.at) : s->host_logits;
        size_t told = 0;
        uint32_t row = 0;

        for (uint32_t i = 0; i < s->n_parts; i++) {
                struct step_part *p = &s->parts[i];

                p->used = 0;
                p->used_rows = s->host_used + row;
                for (uint32_t j = 0; j < p->count; j++)
                        p->used += s->host_used[row++];
                p->logits_out = p->logits > 0 ? logits + told * s->model->info.vocab : NULL;
                told += p->logits;
                p->sequence->length += p->count;
        }
}

static void count_experts(struct step *s) {
        s->experts_read = 0;
        for (size_t i = 0; s->host_tally + i < s->host_used; i++) {
                s->experts_read += s->host_tally[i] > 0;
                s->model->expert_uses[i] += s->trial ? 0 : s->host_tally[i];
        }
}

uint64_t step_experts_read(const struct step *s) {
        return s->experts_read;
}

static int finish(struct step *s) {
        int r;

        r = forward_end(s);
        if (!r)
                r = ops_of(s)->download(s->stream, s->host_tally, s->counts.at, step_counts_bytes(s));
        if (!r)
                r = ops_of(s)->stream_sync(s->stream);
        if (!r && model_file_lost(s->model->file))
                r = -ESTALE;
        if (r)
                return r;
        give_results(s);
        count_experts(s);
        release_parts(s);
        return 0;
}

void step_set_trial(struct step *s, bool trial) {
        s->trial = trial;
}

void step_give_up(struct step *s) {
        if (s->parts)
                (void) abandon(s, 0);
}

int step_advance(struct step *s) {
        int r;

        if (!s->parts)
                return -EINVAL;
        step_memory_place(s);
        if (s->layer == s->model->info.layers) {
                r = finish(s);
                return r ? abandon(s, r) : 0;
        }
        r = forward_layer(s, s->layer);
        if (!r && s->observed)
                r = step_observe_layer(s, s->layer);
        if (r)
                return abandon(s, r);
        s->layer++;
        return 1;
}
