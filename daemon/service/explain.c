/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "explain.h"
#include "peer.h"
#include "stream.h"

/* Leaves room for the end of the message. */
enum { EXPLAIN_FULL = CONTROL_MESSAGE_MAX - 16 * 1024 };

/* Of a request that has not come so far: until now, or until it ended. */
static uint64_t elapsed(const struct trace *trace, uint64_t to) {
        uint64_t end = to ? to : trace->ended ? trace->ended : now_nsec();

        return end - trace->begun;
}

static void put_record(struct control_builder *reply, const struct record *record) {
        const struct trace *trace = &record->trace;
        uint64_t layer_rows = trace->rows * record->moe_layers;

        control_put_u64(reply, "number", trace->number);
        control_put_u64(reply, "uid", record->uid);
        control_put_string(reply, "principal", record->principal);
        control_put_string(reply, "name", record->name);
        control_put_string(reply, "model", record->model);
        control_put_string(reply, "outcome", record->outcome);
        if (record->sentence)
                control_put_string(reply, "reason", record->sentence);
        control_put_u64(reply, "prompt", record->n_prompt);
        control_put_u64(reply, "generated", record->n_generated);
        control_put_u64(reply, "asked_milli", record->asked_milli);
        control_put_u64(reply, "cap_milli",
                        record->n_stretches ? record->stretches[record->n_stretches - 1].cap_milli : 0);
        control_put_u64(reply, "activations", record->activations);
        control_put_u64(reply, "experts_milli", layer_rows ? 1000 * record->activations / layer_rows : 0);
        control_put_u64(reply, "wait_nsec", elapsed(trace, trace->started));
        if (trace->first)
                control_put_u64(reply, "first_nsec", elapsed(trace, trace->first));
        control_put_u64(reply, "total_nsec", elapsed(trace, 0));
}

/* A stretch ends where the next one begins; what was left out between two of them is told in its own place. */
static void put_stretch(struct control_builder *reply, const struct record *record, uint32_t i) {
        const struct stream_cap *stretch = &record->stretches[i];

        control_begin_map(reply, NULL);
        control_put_u64(reply, "row", stretch->row);
        control_put_u64(reply, "cap_milli", stretch->cap_milli);
        control_put_string(reply, "rule", trace_rule_name(stretch->rule));
        control_put_string(reply, "why", trace_find(&record->trace, stretch->row, stretch->rule));
        control_end(reply);
}

static void put_details(struct control_builder *reply, const struct record *record) {
        const struct trace *trace = &record->trace;

        put_record(reply, record);
        control_put_u64(reply, "moe_layers", record->moe_layers);
        control_put_u64(reply, "rows", trace->rows);
        control_put_u64(reply, "passes", trace->passes);
        control_put_u64(reply, "batch_rows", trace->batch_rows);
        control_put_u64(reply, "evictions", trace->evictions);
        control_put_u64(reply, "recomputed", trace->recomputed);
        control_put_u64(reply, "stretches_omitted", record->n_omitted);
        control_begin_array(reply, "stretches");
        for (uint32_t i = 0; i < record->n_stretches; i++)
                put_stretch(reply, record, i);
        control_end(reply);
}

static void put_in_list(struct control_builder *reply, const struct record *record) {
        control_begin_map(reply, NULL);
        put_record(reply, record);
        control_end(reply);
}

static uint64_t list_running(struct control_builder *reply, const struct peer *peer, uint64_t limit) {
        const struct peer *other;
        struct stream *stream;
        uint64_t n = 0;

        list_for_each(other, &peer->server->peers, link) {
                if (!peer_may_know(peer, other->credentials.uid))
                        continue;
                list_for_each(stream, &other->streams, link) {
                        _cleanup_(record_freep) struct record *record = NULL;

                        if (n == limit || reply->size >= EXPLAIN_FULL)
                                return n;
                        if (stream->state == STREAM_ENDED ||
                            record_new(&record, stream, stream_state_name(stream), NULL) < 0)
                                continue;
                        put_in_list(reply, record);
                        n++;
                }
        }
        return n;
}

void explain_list(struct control_builder *reply, const struct peer *peer, uint64_t limit) {
        const struct record *record;
        uint64_t n;

        control_begin_array(reply, "requests");
        n = list_running(reply, peer, limit);
        list_for_each(record, &peer->server->history.records, link) {
                if (n == limit || reply->size >= EXPLAIN_FULL)
                        break;
                if (!peer_may_know(peer, record->uid))
                        continue;
                put_in_list(reply, record);
                n++;
        }
        control_end(reply);
}

static const struct record *find_ended(const struct history *history, uint64_t number) {
        const struct record *record;

        list_for_each(record, &history->records, link)
                if (record->trace.number == number)
                        return record;
        return NULL;
}

int explain_request(struct control_builder *reply, const struct peer *peer, uint64_t number, bool *ret_found) {
        const struct stream *stream = peer_find_numbered(peer, number);
        _cleanup_(record_freep) struct record *running = NULL;
        const struct record *record;
        int r;

        if (stream) {
                r = record_new(&running, stream, stream_state_name(stream), NULL);
                if (r < 0)
                        return r;
        }
        record = running ? running : find_ended(&peer->server->history, number);
        *ret_found = record && peer_may_know(peer, record->uid);
        if (*ret_found)
                put_details(reply, record);
        return 0;
}
