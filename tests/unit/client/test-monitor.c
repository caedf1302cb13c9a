/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "monitor.h"
#include "test.h"

static const struct pane_column columns[] = { { "NAME" }, { "N", true } };

static struct pane pane_of(size_t n, const char *const names[], const double keys[]) {
        struct pane pane;

        pane_init(&pane, columns, ELEMENTS(columns));
        for (size_t i = 0; i < n; i++) {
                pane_row(&pane, names[i], "uid:1");
                pane_text(&pane, names[i]);
                pane_number(&pane, keys[i], "%g", keys[i]);
        }
        assert_se(pane.error == 0 && pane.n_rows == n);
        return pane;
}

static bool in_order(const struct pane *pane, const char *const names[]) {
        for (size_t i = 0; i < pane->n_rows; i++)
                if (strcmp(pane->rows[i].id, names[i]) != 0)
                        return false;
        return true;
}

TEST(rows_are_sorted_by_what_a_column_means) {
        static const char *const names[] = { "10", "9", "100", "8" };
        static const double keys[] = { 2, 100, 2, INFINITY };
        struct pane pane = pane_of(4, names, keys);

        pane_sort(&pane, 1, false);
        assert_se(in_order(&pane, (const char *[]) { "10", "100", "9", "8" }));
        pane_sort(&pane, 1, true); /* equals stay in the order of their numbers */
        assert_se(in_order(&pane, (const char *[]) { "8", "9", "10", "100" }));
        pane_sort(&pane, 0, false); /* words */
        assert_se(in_order(&pane, (const char *[]) { "10", "100", "8", "9" }));
        assert_se(pane_find(&pane, "8") == 2 && pane_find(&pane, "nobody") == 4);
        pane_deinit(&pane);
}

TEST(what_is_shown_is_escaped_and_what_is_sent_is_not) {
        static const char *const names[] = { "unit:a\x1b[2J.service" };
        static const double keys[] = { 0 };
        struct pane pane = pane_of(1, names, keys);

        assert_se(strcmp(pane.rows[0].id, names[0]) == 0);
        assert_se(strcmp(pane.rows[0].cells[0].text, "unit:a\\x1b[2J.service") == 0);
        pane_deinit(&pane);
}

static struct json *parse(const char *text) {
        struct json *json;

        assert_se(json_parse(&json, text, strlen(text), NULL) == 0);
        return json;
}

static struct monitor_sample sample(uint64_t seconds, const char *stats, const char *budget, const char *ps) {
        return (struct monitor_sample) {
                .at = seconds * NSEC_PER_SEC,
                .stats = parse(stats),
                .models = parse("{\"models\": [{\"name\": \"a\", \"state\": \"idle\", \"streams\": 0}]}"),
                .budget = parse(budget),
                .ps = parse(ps),
        };
}

static struct monitor_sample first(void) {
        return sample(1, "{\"iterations\": 10, \"rows\": 100, \"tokens_generated\": 50, \"tokens_prompt\": 50, \"busy_nsec\": 0}",
                      "{\"budgets\": [{\"principal\": \"uid:1\", \"activations\": 100, \"row_layers\": 50, \"prompt\": 0,"
                      "\"generated\": 10, \"connections\": 1, \"weight\": 100, \"experts_max_milli\": 0}], \"rules\": []}",
                      "{\"peers\": [{\"principal\": \"uid:1\", \"streams\": 1, \"queued\": 0, \"kv_pages\": 3, \"requests\":"
                      "[{\"number\": 7, \"generated\": 10}]}]}");
}

static struct monitor_sample second(void) {
        return sample(3, "{\"iterations\": 20, \"rows\": 140, \"tokens_generated\": 70, \"tokens_prompt\": 70,"
                      "\"busy_nsec\": 1000000000, \"kv_pages\": 8, \"tokens_cached\": 30, \"kv_pages_free\": 6, \"streams_running\": 1,"
                      "\"uptime_msec\": 3723000}",
                      "{\"budgets\": [{\"principal\": \"uid:1\", \"activations\": 250, \"row_layers\": 150, \"prompt\": 0,"
                      "\"generated\": 40, \"connections\": 1, \"weight\": 100, \"experts_max_milli\": 2500},"
                      "{\"principal\": \"uid:2\", \"activations\": 0, \"row_layers\": 10, \"prompt\": 10, \"cached\": 30, \"generated\": 0,"
                      "\"connections\": 1, \"weight\": 7},"
                      "{\"principal\": \"uid:3\", \"prompt\": 0, \"generated\": 0, \"connections\": 0}], \"rules\": []}",
                      "{\"peers\": [{\"principal\": \"uid:1\", \"name\": \"x\", \"streams\": 2, \"queued\": 1, \"kv_pages\": 3,"
                      "\"requests\": [{\"number\": 7, \"generated\": 35, \"prompt\": 5, \"prompt_done\": 5, \"state\": \"running\"},"
                      "{\"number\": 8, \"generated\": 0, \"prompt\": 9, \"prompt_done\": 4, \"state\": \"waiting\","
                      "\"position\": 2, \"estimate_nsec\": 1500000000}]}]}");
}

static bool cells_are(const struct pane *pane, const char *id, const char *const texts[]) {
        size_t row = pane_find(pane, id);

        assert_se(row < pane->n_rows && pane->rows[row].n_cells == pane->n_columns);
        for (size_t i = 0; i < pane->n_columns; i++)
                if (strcmp(pane->rows[row].cells[i].text, texts[i]) != 0) {
                        printf("%s: %s is %s, not %s\n", id, pane->columns[i].title, pane->rows[row].cells[i].text,
                               texts[i]);
                        return false;
                }
        return true;
}

TEST(rates_are_what_came_between_two_looks) {
        struct monitor_sample before = first(), now = second();
        struct monitor m;

        monitor_init(&m, &before, &now);
        assert_se(strstr(m.lines[0], "up 1:02:03"));
        assert_se(strstr(m.lines[1], "10.0 tokens/s generated, 10.0 prompt; 5.0 passes/s of 4.0 rows; computes 50%"));
        assert_se(strstr(m.lines[2], "1 requests run, 0 wait") &&
                  strstr(m.lines[2], "KV 2 of 8 pages (25.0%); 30% of prompts from the cache"));
        assert_se(strcmp(m.lines[3], "models: a (idle, 0)") == 0);
        assert_se(m.principals.n_rows == 2); /* who is not there and did nothing is not shown */
        assert_se(cells_are(&m.principals, "uid:1",
                            (const char *[]) { "uid:1", "1", "1", "1", "1.50", "2.50", "100", "75.0%", "15.0", "0.0",
                                               "-", "3" }));
        assert_se(cells_are(&m.principals, "uid:2",
                            (const char *[]) { "uid:2", "1", "0", "0", "-", "-", "7", "25.0%", "-", "-", "75%", "0" }));
        assert_se(cells_are(&m.requests, "7",
                            (const char *[]) { "7", "uid:1", "x", "", "running", "5", "35", "12.5", "-", "-", "0" }));
        assert_se(cells_are(&m.requests, "8",
                            (const char *[]) { "8", "uid:1", "x", "", "waiting, 2, 1.5 s", "4/9", "0", "-", "-", "-",
                                               "0" }));
        monitor_deinit(&m);
        monitor_sample_deinit(&before);
        monitor_sample_deinit(&now);
}

TEST(the_first_look_knows_no_rates) {
        struct monitor_sample before = { .at = 0 }, now = second();
        struct monitor m;

        monitor_init(&m, &before, &now);
        assert_se(strstr(m.lines[1], "- tokens/s generated, - prompt; - passes/s of - rows; computes - of"));
        assert_se(strcmp(m.principals.rows[0].cells[MONITOR_PRINCIPALS_SHARE].text, "0.0%") == 0);
        assert_se(strcmp(m.requests.rows[MONITOR_REQUESTS_NUMBER].cells[7].text, "-") == 0);
        monitor_deinit(&m);
        monitor_sample_deinit(&now);
}

TEST(a_daemon_that_began_anew_has_no_negative_rates) {
        struct monitor_sample before = second(), now = first();
        struct monitor m;

        now.at = before.at + 2 * NSEC_PER_SEC;
        monitor_init(&m, &before, &now);
        assert_se(strstr(m.lines[1], "25.0 tokens/s generated, 25.0 prompt; 5.0 passes/s of 10.0 rows"));
        assert_se(strcmp(m.requests.rows[0].cells[7].text, "0.0") == 0);
        monitor_deinit(&m);
        monitor_sample_deinit(&before);
        monitor_sample_deinit(&now);
}

TEST(answers_without_what_is_expected_are_shown_without_it) {
        struct monitor_sample before = { .at = 0 };
        struct monitor_sample now = sample(1, "{}", "{\"budgets\": [{\"connections\": 1}, 5]}",
                                           "{\"peers\": [{\"requests\": [{}, 1]}, 2]}");
        struct monitor m;

        monitor_init(&m, &before, &now);
        assert_se(m.principals.error == 0 && m.requests.error == 0);
        monitor_deinit(&m);
        monitor_sample_deinit(&now);
}
