/* SPDX-License-Identifier: MIT */
#include "calibrate-print.h"

#include <inttypes.h>
#include <math.h>

#include "base/util.h"

/* Of the full count, in eighths: what people are shown. */
static const uint32_t shown[] = { 2, 3, 4, 5, 6 };

/* The line of a plan for that part of the full count; false: that is less than one expert. */
static bool line_of(const struct expert_plan *plan, uint32_t eighths, uint32_t *ret) {
        uint32_t mean = plan->experts_used * eighths; /* eighths of an expert */

        if (mean < EXPERT_PLAN_PARTS)
                return false;
        *ret = mean - EXPERT_PLAN_PARTS;
        return true;
}

static double in_experts(uint32_t eighths) {
        return (double) eighths / EXPERT_PLAN_PARTS;
}

static double planned_error(const struct calibration *c, uint32_t line) {
        const uint16_t *shares = c->plan.shares + (size_t) line * c->plan.layers;
        double sum = 0.0;

        for (uint32_t l = 0; l < c->plan.layers; l++)
                sum += (double) c->error[(size_t) (shares[l] - EXPERT_PLAN_PARTS) * c->plan.layers + l];
        return sum;
}

static double even_error(const struct calibration *c, uint32_t line) {
        double sum = 0.0;

        for (uint32_t l = 0; l < c->plan.layers; l++)
                sum += (double) c->error[(size_t) line * c->plan.layers + l];
        return sum;
}

static void print_row(const struct calibration *c, const char *name,
                      double (*value)(const struct calibration *, uint32_t), FILE *out) {
        uint32_t line;

        fprintf(out, "%-28s", name);
        for (size_t i = 0; i < ELEMENTS(shown); i++)
                if (line_of(&c->plan, shown[i], &line))
                        fprintf(out, " %10.4g", value(c, line));
        putc('\n', out);
}

static double mean_of(const struct calibration *c, uint32_t line) {
        return in_experts(EXPERT_PLAN_PARTS + line);
}

static void print_layer(const struct calibration *c, uint32_t layer, FILE *out) {
        uint32_t line;

        fprintf(out, "layer with experts %-9" PRIu32, layer);
        for (size_t i = 0; i < ELEMENTS(shown); i++)
                if (line_of(&c->plan, shown[i], &line))
                        fprintf(out, " %10.4g", in_experts(c->plan.shares[(size_t) line * c->plan.layers + layer]));
        putc('\n', out);
}

static void print_text(const struct calibration *c, const struct calibrate_report *report, const char *file,
                       FILE *out) {
        fprintf(out, "%s: of %" PRIu32 " tokens of text\n\n", file, c->tokens);
        print_row(c, "experts per token, mean", mean_of, out);
        for (uint32_t l = 0; l < c->plan.layers; l++)
                print_layer(c, l, out);
        print_row(c, "error, layers alike", even_error, out);
        print_row(c, "error, as planned", planned_error, out);
        if (!c->predictor.weight)
                return;
        fprintf(out, "\nThe predictor explains %.1f %% of what the router leaves open. Error with half of the experts, "
                     "layers alike:\n%.4g the same in every token, %.4g where the router says, %.4g where both say.\n",
                100.0 * report->predictor_r2, report->fixed, report->routed, report->predicted);
}

static void json_lines(const struct calibration *c, bool shares, FILE *out) {
        for (uint32_t i = 0; i < expert_plan_lines(c->plan.experts_used); i++) {
                fputs(i ? ",[" : "[", out);
                for (uint32_t l = 0; l < c->plan.layers; l++) {
                        size_t at = (size_t) i * c->plan.layers + l;

                        fprintf(out, "%s%.9g", l ? "," : "",
                                shares ? in_experts(c->plan.shares[at]) : (double) c->error[at]);
                }
                putc(']', out);
        }
}

static void print_json(const struct calibration *c, const struct calibrate_report *report, FILE *out) {
        fprintf(out, "{\"tokens\":%" PRIu32 ",\"moe_layers\":%" PRIu32 ",\"experts_used\":%" PRIu32 ",\"shares\":[",
                c->tokens, c->plan.layers, c->plan.experts_used);
        json_lines(c, true, out);
        fputs("],\"error\":[", out);
        json_lines(c, false, out);
        putc(']', out);
        if (c->predictor.weight)
                fprintf(out, ",\"predictor\":{\"explained\":%.6g,\"error_fixed\":%.6g,\"error_routed\":%.6g,"
                             "\"error_predicted\":%.6g}",
                        report->predictor_r2, report->fixed, report->routed, report->predicted);
        fputs("}\n", out);
}

void calibrate_print(const struct calibration *c, const struct calibrate_report *report, const char *file, bool json,
                     FILE *out) {
        if (json)
                print_json(c, report, out);
        else
                print_text(c, report, file, out);
}
