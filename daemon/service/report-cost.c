/* SPDX-License-Identifier: MIT */
#include "offer.h"
#include "report.h"

static void report_model_cost(struct control_builder *reply, const struct offer *offer) {
        const struct cost *cost = &offer->sched.cost;

        control_put_string(reply, "model", offer->name);
        control_put_u64(reply, "passes", cost->observed);
        control_put_double(reply, "ratio", cost_ratio(cost));
        control_put_double(reply, "error", cost_error(cost));
        control_put_double(reply, "speed", cost->speed);
        control_begin_map(reply, "nsec");
        for (enum cost_term term = 0; term < _COST_TERM_N; term++)
                control_put_double(reply, cost_term_name(term), cost->coefficients[term]);
        control_end(reply);
}

void report_cost(struct control_builder *reply, const struct server *server) {
        struct offer *offer;

        control_begin_array(reply, "cost");
        list_for_each(offer, &server->offers, link) {
                if (offer->retired)
                        continue;
                control_begin_map(reply, NULL);
                report_model_cost(reply, offer);
                control_end(reply);
        }
        control_end(reply);
}
