/* SPDX-License-Identifier: MIT */
#pragma once

/* Control messages: one msgpack map per SOCK_SEQPACKET packet, at most CONTROL_MESSAGE_MAX bytes, at most
 * CONTROL_FDS_MAX descriptors beside it. A request has "verb" (string), "id" (unsigned, chosen by the client) and the
 * verb's keys; its reply has the same "id" and either the verb's results or "error" (errno, positive) and "reason"
 * (string). The daemon sends packets without "id" on its own account: {"event": "closed", "reason": …}.
 * Unknown keys are ignored; a duplicate key, an unknown verb or a wrong type is answered with an error.
 *
 *   verb      request                                      reply
 *   hello     version, name?, entries?, arena?             version, entries, arena, submissions/completions offsets,
 *                                                          client_size, daemon_size, server (version string)
 *                                                          + fds: client mapping, daemon mapping (read-only), bell
 *                                                          (client → daemon eventfd), wake (daemon → client eventfd)
 *   models                                                 models: [{name, handle, architecture, file, parameters,
 *                                                          size, context, vocab, layers, moe_layers, experts,
 *                                                          experts_used, template}]
 *   open      model? (name; absent: the default)           handle and the same map as in models
 *   tokenize  model, text, special?, bos?                  tokens: [ids]
 *   detokenize model, tokens                               text (binary)
 *   cancel    request                                      found (bool): ends one of the caller's own generations
 *   ps                                                     peers: [{pid, uid, unit, name, connections, streams,
 *                                                          queued, kv_pages, generated, prompt, activations,
 *                                                          experts_milli, cap_milli, weight}] (other uids' only for root)
 *   stats                                                  counters and gauges, flat map (moectl stats prints it as is)
 *   budget    set?: {principal, experts_max_milli?, weight?…}  budgets: [{principal, source, experts_max_milli, weight,
 *                                                          activations, …}]; set: root only
 *   reload                                                 root only: as SIGHUP
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
