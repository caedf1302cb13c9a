/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <string.h>
#include <sys/ioctl.h>

#include "balance.h"
#include "base/util.h"
#include "cells.h"
#include "experts.h"
#include "stats.h"

enum {
        EXPERTS_MAX = 1 << 16, /* of all layers that are taken from an answer */
        FIGURES_WIDTH = 46,    /* of what stands beside the drawing */
        DRAWING_MIN = 16,
};

void expert_uses_deinit(struct expert_uses *uses) {
        free(uses->model);
        free(uses->counts);
}

static int odd_answer(void) {
        cli_complain("the daemon's answer is not what this moectl understands");
        return EX_PROTOCOL;
}

static int ask(struct moed *m, const char *model, uint32_t from, struct json **ret) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        _cleanup_(freep) char *arguments = NULL;
        int code;

        json_open(&w, '{');
        json_key(&w, "experts");
        json_text(&w, model);
        json_key(&w, "from");
        json_uint(&w, from);
        json_close(&w, '}');
        code = cli_exit_code(json_writer_take(&w, &arguments));
        return code ? code : cli_query(m, "stats", arguments, ret);
}

/* Takes the layers of one answer; *at moves on. */
static int take_layers(struct expert_uses *u, const struct json *reply, uint32_t *at) {
        uint32_t before = *at;

        json_for_each(layer, json_get(reply, "layers")) {
                uint64_t *to = u->counts + (size_t) *at * u->experts;

                if (*at == u->layers || layer->type != JSON_ARRAY || layer->length != u->experts)
                        return odd_answer();
                json_for_each(count, layer)
                        *to++ = count->type == JSON_UINT ? count->uint : 0;
                (*at)++;
        }
        return *at > before || u->layers == 0 ? 0 : odd_answer();
}

static int uses_init(struct expert_uses *u, const struct json *reply) {
        uint64_t layers = json_get_uint(reply, "moe_layers", 0), experts = json_get_uint(reply, "experts", 0);

        if (layers > EXPERTS_MAX || experts > EXPERTS_MAX || layers * experts > EXPERTS_MAX ||
            (layers > 0 && experts == 0))
                return odd_answer();
        u->layers = (uint32_t) layers;
        u->experts = (uint32_t) experts;
        u->used = (uint32_t) MIN(json_get_uint(reply, "experts_used", 0), experts);
        u->model = strdup(json_get_text(reply, "model", ""));
        u->counts = calloc(layers * experts + 1, sizeof(*u->counts));
        return cli_exit_code(u->model && u->counts ? 0 : -ENOMEM);
}

/* A message holds some thousand counts: asks for more until all layers are here. */
int expert_uses_ask(struct expert_uses *u, struct moed *m, const char *model) {
        uint32_t at = 0;
        int code;

        do {
                _cleanup_(json_freep) struct json *reply = NULL;

                code = ask(m, model, at, &reply);
                if (!code && !u->counts)
                        code = uses_init(u, reply);
                if (!code)
                        code = take_layers(u, reply, &at);
        } while (!code && at < u->layers);
        return code;
}

static int uses_print_json(const struct expert_uses *u) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        _cleanup_(freep) char *text = NULL;
        int code;

        json_open(&w, '{');
        json_key(&w, "model");
        json_text(&w, u->model);
        json_key(&w, "experts");
        json_uint(&w, u->experts);
        json_key(&w, "experts_used");
        json_uint(&w, u->used);
        json_key(&w, "layers");
        json_open(&w, '[');
        for (uint32_t l = 0; l < u->layers; l++) {
                json_open(&w, '[');
                for (uint32_t e = 0; e < u->experts; e++)
                        json_uint(&w, u->counts[(size_t) l * u->experts + e]);
                json_close(&w, ']');
        }
        json_close(&w, ']');
        json_close(&w, '}');
        code = cli_exit_code(json_writer_take(&w, &text));
        if (code)
                return code;
        puts(text);
        return cli_flush();
}

static const char *const *level_marks(void) {
        static const char *const blocks[] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
        static const char *const ascii[] = { " ", ".", ":", "-", "=", "+", "*", "%", "#" };

        return strcmp(nl_langinfo(CODESET), "UTF-8") == 0 ? blocks : ascii;
}

static uint32_t terminal_columns(void) {
        const char *columns = getenv("COLUMNS");
        struct winsize size;
        uint64_t n;

        if (columns && args_u64(columns, UINT16_MAX, &n) == 0 && n > 0)
                return (uint32_t) n;
        return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* So many experts share a column that a row fits the terminal. */
static uint32_t experts_per_column(uint32_t experts) {
        uint32_t columns = terminal_columns(), room = MAX(columns, (uint32_t) FIGURES_WIDTH) - FIGURES_WIDTH;

        return MAX(DIV_ROUND_UP(experts, MAX(room, (uint32_t) DRAWING_MIN)), 1u);
}

static void drawing_cell(struct table *table, const uint64_t *counts, uint32_t n, uint32_t per_column, double mean) {
        const char *const *marks = level_marks();
        char text[EXPERTS_MAX / 8]; /* a terminal has no more columns than that of 3 bytes each */
        size_t used = 0;

        for (uint32_t e = 0; e < n && used + 4 < sizeof(text); e += per_column) {
                uint32_t width = MIN(per_column, n - e);
                double sum = 0.0;

                for (uint32_t i = 0; i < width; i++)
                        sum += (double) counts[e + i];
                used += (size_t) snprintf(text + used, sizeof(text) - used, "%s",
                                          marks[balance_level(sum / width, mean)]);
        }
        table_cell(table, "%s", text);
}

static void layer_row(struct table *table, const struct expert_uses *u, uint32_t layer, uint32_t per_column) {
        const uint64_t *counts = u->counts + (size_t) layer * u->experts;
        struct balance b = balance_of(counts, u->experts);
        char total[16];

        table_cell(table, "%" PRIu32, layer);
        drawing_cell(table, counts, u->experts, per_column, (double) b.total / u->experts);
        table_cell(table, "%s", format_count(total, b.total));
        table_cell(table, "%.2f", b.busiest);
        table_cell(table, "%.1f", b.effective);
        table_cell(table, "%" PRIu32, b.unused);
}

static int print_layers(const struct expert_uses *u) {
        static const struct table_column columns[] = {
                { "LAYER", true },   { "EXPERTS" },           { "USES", true },
                { "BUSIEST", true }, { "EFFECTIVE", true }, { "UNUSED", true },
        };
        _cleanup_(table_deinit) struct table table = {};
        uint32_t per_column = experts_per_column(u->experts);
        const char *const *marks = level_marks();

        printf("%" PRIu32 " experts, of which a row uses %" PRIu32 "; %" PRIu32 " in a column.\n", u->experts, u->used,
               per_column);
        printf("%s is the mean of the layer, each step of %s%s%s%s%s%s%s%s a factor of two, a gap was never used.\n\n",
               marks[4], marks[1], marks[2], marks[3], marks[4], marks[5], marks[6], marks[7], marks[8]);
        table_init(&table, columns, ELEMENTS(columns));
        for (uint32_t l = 0; l < u->layers; l++)
                layer_row(&table, u, l, per_column);
        return table_finish(&table);
}

static void bar_cell(struct table *table, uint64_t count, uint64_t most) {
        enum { WIDTH = 40 };
        int n = most > 0 ? (int) ((double) count / (double) most * WIDTH + 0.5) : 0;

        table_cell(table, "%.*s", n, "########################################");
}

static int print_layer(const struct expert_uses *u, uint32_t layer) {
        static const struct table_column columns[] = {
                { "EXPERT", true }, { "USES", true }, { "SHARE", true }, { "OF THE MOST USED" },
        };
        _cleanup_(table_deinit) struct table table = {};
        const uint64_t *counts = u->counts + (size_t) layer * u->experts;
        uint64_t total = balance_of(counts, u->experts).total, most = 0;

        for (uint32_t e = 0; e < u->experts; e++)
                most = MAX(most, counts[e]);
        table_init(&table, columns, ELEMENTS(columns));
        for (uint32_t e = 0; e < u->experts; e++) {
                table_cell(&table, "%" PRIu32, e);
                table_cell(&table, "%" PRIu64, counts[e]);
                table_cell(&table, "%.2f%%", total > 0 ? 100.0 * (double) counts[e] / (double) total : 0.0);
                bar_cell(&table, counts[e], most);
        }
        return table_finish(&table);
}

int stats_experts(struct moed *m, const struct cli *cli, const char *model, const uint32_t *layer) {
        _cleanup_(expert_uses_deinit) struct expert_uses u = {};
        struct moed_model which;
        int code;

        setlocale(LC_CTYPE, "");
        code = cli_model(m, model, &which);
        if (!code)
                code = expert_uses_ask(&u, m, which.name);
        if (code)
                return code;
        if (cli->json)
                return uses_print_json(&u);
        if (u.layers == 0) {
                cli_note("%s has no experts to choose from.", u.model);
                return EX_OK;
        }
        if (!layer)
                return print_layers(&u);
        if (*layer < u.layers)
                return print_layer(&u, *layer);
        cli_complain("%s has %" PRIu32 " layers with experts, counted from 0", u.model, u.layers);
        return EX_USAGE;
}
