/* SPDX-License-Identifier: MIT */
#pragma once

/* Control messages: one msgpack map per SOCK_SEQPACKET packet, at most CONTROL_MESSAGE_MAX bytes, at most
 * CONTROL_FDS_MAX descriptors beside it. A request has "verb" (string), "id" (unsigned, chosen by the client) and the
 * verb's keys; its reply has the same "id" and either the verb's results or "error" (errno, positive) and "reason"
 * (string). The daemon sends packets without "id" on its own account: {"event": "closed", "error": errno,
 * "reason": …}.
 * Unknown keys are ignored; a duplicate key, an unknown verb or a wrong type is answered with an error.
 *
 *   verb      request                                      reply
 *   hello     version, name?, entries?, arena?             version, entries, arena (bytes), submissions and completions
 *                                                          (offset of the slots, each in its mapping), client_size,
 *                                                          daemon_size, server (version string)
 *                                                          + fds: client mapping, daemon mapping (read-only), bell
 *                                                          (client → daemon, eventfd), wake (daemon → client, reading
 *                                                          end of a pipe, see notify.h)
 *   models                                                 models: [{name, handle, architecture, file, parameters,
 *                                                          size, context, vocab, layers, moe_layers, experts,
 *                                                          experts_used, state, streams, shared, template,
 *                                                          calibration}]
 *   open      model? (name; absent: the default)           handle and the same map as in models
 *   tokenize  model, text, special?, bos?                  tokens: [ids]
 *   detokenize model, tokens                               text (binary)
 *   cancel    request, or number                           found (bool): ends one of the caller's own generations; by
 *                                                          number any of its user's, for admins of everybody
 *   explain   number?, limit?                              without number: requests: [{number, principal, outcome,
 *                                                          activations, wait_nsec…}]; with it, one such map with
 *                                                          stretches: [{row, cap_milli, rule, why}]. Of others only for
 *                                                          admins
 *   ps                                                     peers: [{pid, uid, unit, name, connections, streams,
 *                                                          queued, position?, kv_pages, generated, prompt, cached,
 *                                                          activations, principal, experts_milli, cap_milli,
 *                                                          weight, requests: [{number, model, state, prompt,
 *                                                          prompt_done, generated, activations, experts_milli,
 *                                                          cap_milli, rule, kv_pages, position?,
 *                                                          estimate_nsec?}]}] (other uids' only for admins), omitted?
 *   stats     experts?: model, from?; or cost?             counters and gauges, flat map (moectl stats prints
 *                                                          it as it is);
 *                                                          of a model's experts: model, moe_layers, experts,
 *                                                          experts_used, from, layers: [[rows that used each]] (root);
 *                                                          cost: [{model, passes, ratio, error, speed, nsec: {term…}}]
 *                                                          (root, moed-admin)
 *   budget    principal?, set?: {principal, KEY: "value"…}  budgets: [{principal, keys: [{key, value, rule, source}],
 *             (keys as in moed.conf(5)), or                experts_max_milli…, activations, …}], rules: [{principal,
 *             reset?: principal; save?                     keys}] (admins), omitted?; set and reset: root, the daemon's
 *                                                          own user, the group moed-admin
 *   reload                                                 root only: as SIGHUP; the reply comes when it is in force
 *   load      name, file, default?                         as open, when it is done; root only
 *   unload    name                                         streams: that end on it; root only
 *
 * `hello` must come first and once; a version that the daemon does not speak is refused with the versions it does.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
        CONTROL_MESSAGE_MAX = 256 * 1024,
        CONTROL_FDS_MAX = 8,
};

#include <sys/socket.h>
#include <sys/uio.h>

#include "base/reason.h"

enum {
        CONTROL_DEPTH_MAX = 8,  /* maps and arrays inside each other, the outermost included */
        CONTROL_KEYS_MAX = 256, /* of one map */
};

enum {
        _CONTROL_E_SUCCESS,
        CONTROL_E_AGAIN,   /* nothing to receive now, or no room to send */
        CONTROL_E_CLOSED,  /* the peer is gone */
        CONTROL_E_REFUSED, /* malformed, truncated or too large; the reason says what */
        CONTROL_E_ABSENT,  /* no such key, or past the end of the array */
        CONTROL_E_TYPE,    /* there, but not of the type asked for, or out of its range */
};

/* --- Parsing. Nothing is allocated before the whole packet has been checked by a walk over its bytes, so
 * what a packet can make the receiver allocate is bounded by its size (24 bytes for each of its bytes, at
 * worst). --- */

struct msgpack_object;
struct msgpack_object_kv;

/* Views into a message, valid as long as it. They are small: pass them by value. */
struct control_value {
        const struct msgpack_object *object;
};
struct control_map {
        const struct msgpack_object_kv *entries;
        uint32_t size;
};
struct control_array {
        const struct msgpack_object *items;
        uint32_t size;
};
/* Not NUL-terminated, any bytes. */
struct control_text {
        const char *data;
        size_t size;
};

struct control_message {
        struct control_map root;
        void *zone;
};
#define CONTROL_MESSAGE_NULL ((struct control_message) {})

/* Parses one packet: exactly one map with string keys, none twice, nothing behind it, within the limits
 * above. The message points into `data`, which must outlive it unchanged. Returns 0, CONTROL_E_REFUSED, or
 * -ENOMEM. Thread-safe. */
int control_parse(struct control_message *ret, const void *data, size_t size, struct reason *reason);
void control_message_deinit(struct control_message *message);

/* By key: 0, CONTROL_E_ABSENT or CONTROL_E_TYPE; *ret only on 0. A nil value counts as absent. Integers may
 * be encoded in any width; u32 and u64 refuse negative ones. double takes integers too. */
int control_get(struct control_map map, const char *key, struct control_value *ret);
int control_get_u32(struct control_map map, const char *key, uint32_t *ret);
int control_get_u64(struct control_map map, const char *key, uint64_t *ret);
int control_get_i64(struct control_map map, const char *key, int64_t *ret);
int control_get_double(struct control_map map, const char *key, double *ret);
int control_get_bool(struct control_map map, const char *key, bool *ret);
int control_get_string(struct control_map map, const char *key, struct control_text *ret);
int control_get_binary(struct control_map map, const char *key, struct control_text *ret);
int control_get_array(struct control_map map, const char *key, struct control_array *ret);
int control_get_map(struct control_map map, const char *key, struct control_map *ret);
/* Copies a string NUL-terminated into `size` bytes; one that does not fit or has a NUL inside is
 * CONTROL_E_TYPE. */
int control_get_name(struct control_map map, const char *key, char *ret, size_t size);

/* Elements by position, from 0: CONTROL_E_ABSENT past the end. */
int control_array_at(struct control_array array, uint32_t i, struct control_value *ret);
int control_map_at(struct control_map map, uint32_t i, struct control_text *ret_key,
                   struct control_value *ret);

enum control_type {
        CONTROL_NIL,
        CONTROL_BOOL,
        CONTROL_UNSIGNED, /* an integer from 0 up */
        CONTROL_NEGATIVE,
        CONTROL_DOUBLE,
        CONTROL_STRING,
        CONTROL_BINARY,
        CONTROL_ARRAY,
        CONTROL_MAP,
};
enum control_type control_type(struct control_value value);
/* 0 or CONTROL_E_TYPE. */
int control_as_u32(struct control_value value, uint32_t *ret);
int control_as_u64(struct control_value value, uint64_t *ret);
int control_as_i64(struct control_value value, int64_t *ret);
int control_as_double(struct control_value value, double *ret);
int control_as_bool(struct control_value value, bool *ret);
int control_as_string(struct control_value value, struct control_text *ret);
int control_as_binary(struct control_value value, struct control_text *ret);
int control_as_array(struct control_value value, struct control_array *ret);
int control_as_map(struct control_value value, struct control_map *ret);

/* --- Building: control_builder_init() opens the root map, control_builder_finish() closes it; in between
 * values with their keys (NULL inside an array). Errors are kept and told once, by finish. --- */

struct control_builder {
        uint8_t *data;
        size_t size, allocated;
        unsigned depth;
        struct {
                size_t offset;  /* of the header, whose count is filled in at the end */
                uint32_t count; /* values in it */
                bool is_map;
        } open[CONTROL_DEPTH_MAX];
        int error;
};

void control_builder_init(struct control_builder *ret);
void control_builder_deinit(struct control_builder *builder);
void control_put_nil(struct control_builder *builder, const char *key);
void control_put_u64(struct control_builder *builder, const char *key, uint64_t value);
void control_put_i64(struct control_builder *builder, const char *key, int64_t value);
void control_put_double(struct control_builder *builder, const char *key, double value);
void control_put_bool(struct control_builder *builder, const char *key, bool value);
/* NULL is put as nil, which the getters take for absent. */
void control_put_string(struct control_builder *builder, const char *key, const char *value);
void control_put_text(struct control_builder *builder, const char *key, const void *data, size_t size);
void control_put_binary(struct control_builder *builder, const char *key, const void *data, size_t size);
void control_begin_map(struct control_builder *builder, const char *key);
void control_begin_array(struct control_builder *builder, const char *key);
/* Closes the innermost map or array but the root. */
void control_end(struct control_builder *builder);
/* The packet, owned by the builder. Returns 0, CONTROL_E_REFUSED when it is larger than CONTROL_MESSAGE_MAX
 * or has more than CONTROL_KEYS_MAX keys in a map, -ENOMEM, or -EINVAL when begin, end and keys don't fit
 * together. */
int control_builder_finish(struct control_builder *builder, const void **ret, size_t *ret_size);

/* --- Packets with descriptors over a SOCK_SEQPACKET socket --- */

/* Makes room in the socket for the largest packet; each side calls it once. Returns 0 or a negative errno. */
int control_socket_prepare(int fd);

/* One packet, never blocking, never SIGPIPE; the descriptors stay the caller's. Returns 0, CONTROL_E_AGAIN,
 * CONTROL_E_CLOSED, CONTROL_E_REFUSED (too large, or too many descriptors are on their way), or a negative
 * errno. */
int control_send(int fd, const void *data, size_t size, const int *fds, size_t n_fds);

struct control_packet {
        size_t size;              /* bytes in the buffer */
        int fds[CONTROL_FDS_MAX]; /* owned, close-on-exec */
        size_t n_fds;
};
#define CONTROL_PACKET_NULL ((struct control_packet) {})
/* Closes the descriptors that have not been stolen (set to -1). */
void control_packet_deinit(struct control_packet *packet);

/* Receives one packet into `buffer`; never blocks. Returns 0, CONTROL_E_AGAIN, CONTROL_E_CLOSED,
 * CONTROL_E_REFUSED (the packet or its descriptors did not fit: all of it is dropped, descriptors closed), or
 * a negative errno. */
int control_receive(int fd, void *buffer, size_t capacity, struct control_packet *ret, struct reason *reason);

/* The same in two halves around an io_uring recvmsg: arm, submit recvmsg with &receiver->header and flags
 * MSG_CMSG_CLOEXEC, then finish with the result (bytes, or a negative errno), which returns as
 * control_receive(). */
struct control_receiver {
        struct msghdr header;
        struct iovec vector;
        _Alignas(struct cmsghdr) uint8_t ancillary[CMSG_SPACE(sizeof(int) * CONTROL_FDS_MAX)];
};
void control_receiver_arm(struct control_receiver *receiver, void *buffer, size_t capacity);
int control_receiver_finish(struct control_receiver *receiver, int64_t result, struct control_packet *ret,
                            struct reason *reason);
