/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "offer.h"
#include "report.h"

/* Of one reply: in msgpack a count is 9 bytes at most, so that they and all else fit into a message. */
enum { REPORT_COUNTS_MAX = 16 * 1024 };

void report_experts(struct control_builder *reply, const struct offer *offer, uint32_t from) {
        const struct model_info *info = model_info(offer->model);
        uint32_t left = info->moe_layers - MIN(from, info->moe_layers);
        uint32_t layers = MIN(left, REPORT_COUNTS_MAX / MAX(info->experts, 1u));

        control_put_string(reply, "model", offer->name);
        control_put_u64(reply, "moe_layers", info->moe_layers);
        control_put_u64(reply, "experts", info->experts);
        control_put_u64(reply, "experts_used", info->experts_used);
        control_put_u64(reply, "from", from);
        control_begin_array(reply, "layers");
        for (uint32_t l = from; l < from + layers; l++) {
                const uint64_t *uses = model_expert_uses(offer->model, l);

                control_begin_array(reply, NULL);
                for (uint32_t e = 0; e < info->experts; e++)
                        control_put_u64(reply, NULL, uses[e]);
                control_end(reply);
        }
        control_end(reply);
}
