/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "base/util.h"
#include "config-parse.h"
#include "config-value.h"
#include "config.h"
#include "test.h"

static char folder[64];

static const char *path_of(const char *name) {
        static char paths[4][256];
        static unsigned turn;
        char *path = paths[turn++ % 4];

        snprintf(path, 256, "%s/%s", folder, name);
        return path;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static void folder_remove(void) {
        nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void folder_make(void) {
        const char *tmp = getenv("TMPDIR");

        snprintf(folder, sizeof(folder), "%s/moed-config-XXXXXX", tmp && strlen(tmp) < 32 ? tmp : "/tmp");
        assert_se(mkdtemp(folder));
        atexit(folder_remove);
}

static void write_bytes(const char *name, const char *bytes, size_t length) {
        FILE *f = fopen(path_of(name), "w");

        assert_se(f && fwrite(bytes, 1, length, f) == length && fclose(f) == 0);
}

static void write_file(const char *name, const char *text) {
        write_bytes(name, text, strlen(text));
}

/* Loads moed.conf with this text; NULL when it was refused. */
static struct config *load(const char *text, struct config_report *report) {
        struct config *config = NULL;
        int r;

        *report = (struct config_report) CONFIG_REPORT_NULL;
        if (!*folder)
                folder_make();
        if (text)
                write_file("moed.conf", text);
        r = config_load(&config, path_of("moed.conf"), CONFIG_SYSTEM, report);
        assert_se(r == 0 || r == CONFIG_E_INVALID);
        assert_se((r == 0) == (config != NULL));
        assert_se((r == 0) == (report->n_errors == 0));
        return config;
}

static bool reported(const struct config_report *report, bool error, const char *what) {
        for (size_t i = 0; i < report->n_messages; i++)
                if (report->messages[i].error == error && strstr(report->messages[i].text, what))
                        return true;
        fprintf(stderr, "no message has '%s'; there are:\n", what);
        for (size_t i = 0; i < report->n_messages; i++)
                fprintf(stderr, "  %s\n", report->messages[i].text);
        return false;
}

/* The text is refused with exactly one error, which says this. */
static void refused(const char *text, const char *what) {
        struct config_report report;

        assert_se(!load(text, &report));
        assert_se(reported(&report, true, what));
        assert_se(report.n_errors == 1);
        config_report_deinit(&report);
}

static bool accepted(const char *text) {
        struct config_report report;
        struct config *config = load(text, &report);

        config_free(config);
        config_report_deinit(&report);
        return config != NULL;
}

TEST(an_empty_file_gives_the_defaults) {
        struct config_report report;
        struct config *config = load("", &report), *defaults;

        assert_se(config_new(&defaults) == 0);
        assert_se(config && config->rows_max == defaults->rows_max && config->kv_memory == defaults->kv_memory);
        assert_se(config->socket == NULL && config->socket_mode == 0666 && config->threads == 0);
        assert_se(config->drain_timeout_nsec == 30 * NSEC_PER_SEC && config->log_level == LOG_INFO);
        assert_se(config->limits.connections_max > 0 && config->n_models == 0 && !config_default_model(config));
        assert_se(strcmp(config->source, path_of("moed.conf")) == 0);
        config_free(config);
        config_free(defaults);
        config_free(NULL);
}

TEST(every_key_is_read) {
        struct config_report report;
        struct config *c = load(
                "# a comment\n; another\n"
                "[Daemon]\nSocket=/run/x.sock\nSocketMode=0660\nThreads = 3 \r\nKvMemory=512M\n"
                "KvType=f32\nRowsMax=128\n  PromptRowsMax=17\nContextMax=4096\nContextExtend=on\n"
                "SpinUsec=1ms\nDrainTimeoutSec=1min 30s\nIdleUnloadSec=5min\nLogLevel=debug\nPrefixCache=no\n"
                "[Limits]\nConnectionsMax=1\nStreamsMax=2\nQueueMax=0\nRingEntriesMax=8\nArenaMax=64K\n"
                "PromptBytesMax=1G\n"
                "[Model a]\nFile=/a.gguf\nIdleUnloadSec=250ms\nPrefixCache=on\n"
                "[Model b.Q4_K-M]\nFile=/b = c.gguf\nDefault=yes\n"
                "[Budget default]\nExpertsMax=2.5\n[Budget uid:0]\nWeight=300\nExpertsMax=infinity",
                &report);
        struct policy_principal root = { .kind = POLICY_KIND_UID };

        assert_se(c && report.n_warnings == 0);
        assert_se(strcmp(c->socket, "/run/x.sock") == 0 && c->socket_mode == 0660 && c->threads == 3);
        assert_se(c->kv_memory == UINT64_C(512) << 20 && c->kv_type == CONFIG_KV_F32 && c->rows_max == 128);
        assert_se(c->prompt_rows_max == 17 && c->context_max == 4096 && c->context_extend && c->spin_usec == 1000);
        assert_se(c->drain_timeout_nsec == 90 * NSEC_PER_SEC && c->log_level == LOG_DEBUG);
        assert_se(c->limits.connections_max == 1 && c->limits.streams_max == 2 && c->limits.queue_max == 0);
        assert_se(c->limits.ring_entries_max == 8 && c->limits.arena_max == 65536);
        assert_se(c->limits.prompt_bytes_max == UINT64_C(1) << 30);
        assert_se(c->n_models == 2 && strcmp(c->models[1].file, "/b = c.gguf") == 0);
        assert_se(config_default_model(c) == &c->models[1] && !c->models[0].is_default);
        assert_se(config_idle_unload(c, config_find_model(c, "a")) == NSEC_PER_SEC / 4);
        assert_se(config_idle_unload(c, config_find_model(c, "b.Q4_K-M")) == 300 * NSEC_PER_SEC);
        assert_se(config_idle_unload(c, NULL) == 300 * NSEC_PER_SEC && !config_find_model(c, "b"));
        assert_se(config_prefix_cache(c, config_find_model(c, "a")) && !config_prefix_cache(c, NULL));
        assert_se(c->budgets.n_rules == 2 && c->budgets.rules[0].policy.experts_max_milli == 2500);
        assert_se(policy_table_find(&c->budgets, &root)->policy.weight == 300);
        assert_se(policy_table_find(&c->budgets, &root)->policy.experts_max_milli == 0);
        config_free(c);
}

TEST(keys_and_values_are_kept_as_is_said_or_as_is_best) {
        static const struct {
                const char *name;
                enum quant_type on_f16, on_bf16; /* with a backend that keeps them best as that */
        } cases[] = {
                { "auto", QUANT_F16, QUANT_BF16 },
                { "f16", QUANT_F16, QUANT_F16 },
                { "bf16", QUANT_BF16, QUANT_BF16 },
                { "f32", QUANT_F32, QUANT_F32 },
        };
        struct config_report report;
        struct config *c = load("", &report);

        assert_se(c && c->kv_type == CONFIG_KV_AUTO);
        config_free(c);
        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                char text[64];

                snprintf(text, sizeof(text), "[Daemon]\nKvType=%s\n", cases[i].name);
                c = load(text, &report);
                assert_se(c && config_kv_quant(c->kv_type, QUANT_F16) == cases[i].on_f16);
                assert_se(config_kv_quant(c->kv_type, QUANT_BF16) == cases[i].on_bf16);
                config_free(c);
        }
}

TEST(an_empty_value_takes_back_what_was_said) {
        struct config_report report;
        struct config *c =
                load("[Daemon]\nSocket=/a\nSocket=\nRowsMax=9\nRowsMax=\nKvType=f32\nKvType=\nLogLevel=err\n"
                     "LogLevel=\nSocketMode=600\nSocketMode=\nDrainTimeoutSec=1\nDrainTimeoutSec=\n"
                     "Threads=4\nThreads=auto\nContextMax=64\nContextMax=model\nContextExtend=yes\nContextExtend=\n"
                     "[Budget uid:0]\nWeight=3\nWeight=\n[Model m]\nFile=/x\nDefault=yes\nDefault=\n",
                     &report);

        assert_se(c && !c->socket && c->rows_max == 512 && c->kv_type == CONFIG_KV_AUTO && c->log_level == LOG_INFO);
        assert_se(c->socket_mode == 0666 && c->drain_timeout_nsec == 30 * NSEC_PER_SEC && c->threads == 0);
        assert_se(c->context_max == 0 && !c->context_extend && c->budgets.rules[0].keys == 0 &&
                  c->budgets.rules[0].policy.weight == 100);
        assert_se(c->models[0].is_default); /* the only one */
        config_free(c);
        refused("[Model m]\nFile=/x\nFile=\n", "moed.conf:1: [Model m]: lacks File=");
}

TEST(the_first_model_is_the_default_unless_the_last_word_is_another) {
        struct config_report report;
        struct config *c = load("[Model a]\nFile=/a\n[Model b]\nFile=/b\n", &report);

        assert_se(c && config_default_model(c) == &c->models[0]);
        config_free(c);
        c = load("[Model a]\nFile=/a\nDefault=1\n[Model b]\nFile=/b\nDefault=on\n", &report);
        assert_se(c && config_default_model(c) == &c->models[1] && !c->models[0].is_default);
        config_free(c);
}

TEST(each_mistake_is_told_with_its_place_and_what_is_allowed) {
        refused("[Daemon]\n\nRowsMax=0\n", "moed.conf:3: RowsMax=0: 1 to 4096 is allowed");
        refused("[Daemon]\nRowsMax=4097", "RowsMax=4097: 1 to 4096");
        refused("[Daemon]\nRowsMax=-1", "RowsMax=-1:");
        refused("[Daemon]\nRowsMax=99999999999999999999999", "1 to 4096");
        refused("[Daemon]\nThreads=many", "Threads=many: 1 to 1024 is allowed, or auto");
        refused("[Daemon]\nContextExtend=maybe", "ContextExtend=maybe: yes or no is allowed");
        refused("[Daemon]\nKvMemory=1X", "from 1M to 16T is allowed");
        refused("[Daemon]\nKvMemory=1K", "from 1M to 16T is allowed");
        refused("[Daemon]\nKvMemory=99999999999T", "from 1M to 16T is allowed");
        refused("[Daemon]\nKvType=q8", "moed.conf:2: KvType=q8: auto, f16, bf16 or f32 is allowed");
        refused("[Daemon]\nSpinUsec=2s",
                "SpinUsec=2s: 0s to 1s is allowed, in us, ms, s, min or h; a number alone is in us");
        refused("[Daemon]\nDrainTimeoutSec=1 fortnight", "a number alone is in s");
}

TEST(further_mistakes_are_told_likewise) {
        refused("[Daemon]\nSocket=relative", "absolute path");
        refused("[Daemon]\nSocketMode=888", "octal");
        refused("[Daemon]\nSocketMode=1777", "octal");
        refused("[Daemon]\nLogLevel=loud", "err, warning, notice, info or debug");
        refused("[Daemon]\nExpertsMin=2",
                "moed.conf:2: ExpertsMin=: not a key of [Daemon]; it knows Socket, SocketMode");
        refused("[Limits]\nRowsMax=2", "not a key of [Limits]; it knows ConnectionsMax");
        refused("[Model m]\nFile=/m\nPath=/m",
                "not a key of [Model]; it knows File, Default, IdleUnloadSec, PrefixCache");
        refused("[Model m]\nFile=/m\nPrefixCache=full", "PrefixCache=full: yes or no");
        refused("[Model m]\nFile=/m\nIdleUnloadSec=800h", "IdleUnloadSec=800h: ");
        refused("[Daemon]\nIdleUnloadSec=-1", "IdleUnloadSec=-1: ");
        refused("[Model m]\nFile=/m\nFile=m.gguf", "File=m.gguf: an absolute path");
        refused("[Model m]\nFile=/m\nDefault=perhaps", "Default=perhaps: yes or no");
        refused("[Model]\nFile=/m", "[Model ]: a model's name has 1 to 64");
        refused("[Model a/b]\nFile=/m\nNonsense=1", "[Model a/b]:");
        refused("[Budget uid:0]\nExpertsMax=0",
                "ExpertsMax=0: a number above 0 and up to 1024, with up to three decimals");
        refused("[Budget uid:0]\nExpertsMax=1.2345", "three decimals");
        refused("[Budget uid:0]\nExpertsMax=1.", "three decimals");
        refused("[Budget uid:0]\nExpertsMax=1024.001", "up to 1024");
        refused("[Budget uid:0]\nWeight=0", "Weight=0: 1 to 10000");
        refused("[Budget uid:0]\nWeigh=5", "Weigh=: not a key of [Budget]; it knows ExpertsMax, ExpertsMin, Weight");
        refused("[Budget uid:0]\nweight=5", "weight=: not a key of [Budget]");
        refused("[Budget uid:0]\nClass=urgent", "Class=urgent: interactive, batch or idle is allowed");
        refused("[Budget someone]\nWeight=1", "[Budget someone]: 'someone' is no principal");
        refused("[Budget]\nWeight=1", "is no principal");
        refused("[Daemons]\nRowsMax=0", "[Daemons]: no such section; there are [Daemon], [Limits], [Model NAME]");
        refused("[Daemon x]\nRowsMax=0", "[Daemon x]: no such section");
        refused("[Daemon\nRowsMax=0", "lacks its ]");
        refused("RowsMax=1\n", "moed.conf:1: RowsMax=: stands before the first [Section]");
        refused("[Daemon]\nRowsMax\n", "'RowsMax': neither [Section] nor Key=value");
}

TEST(all_mistakes_are_told_not_only_the_first) {
        struct config_report report;

        assert_se(!load("[Daemon]\nRowsMax=0\nThreads=0\n[Limits]\nQueueMax=x\n[Model m]\n[Nope]\nA=b\nC=d\n",
                        &report));
        assert_se(report.n_errors == 5 && report.n_messages == 5);
        assert_se(reported(&report, true, ":2: RowsMax") && reported(&report, true, ":3: Threads"));
        assert_se(reported(&report, true, ":5: QueueMax") && reported(&report, true, "lacks File="));
        config_report_deinit(&report);
}

TEST(so_many_messages_are_kept_and_the_rest_counted) {
        char *text = malloc(4096 * 16), *end = text;
        struct config_report report;

        assert_se(text);
        end += sprintf(end, "[Daemon]\n");
        for (int i = 0; i < 4000; i++)
                end += sprintf(end, "RowsMax=0\n");
        assert_se(!load(text, &report));
        assert_se(report.n_errors == 4000 && report.n_messages == CONFIG_MESSAGES_MAX);
        config_report_deinit(&report);
        assert_se(report.n_messages == 0);
        free(text);
}

TEST(an_unknown_user_is_a_warning_but_its_values_are_checked) {
        struct config_report report;
        struct config *c = load("[Budget uid:no-such-user-here]\nWeight=5\n[Budget uid:0]\nWeight=6\n", &report);

        assert_se(c && c->budgets.n_rules == 1 && c->budgets.rules[0].policy.weight == 6);
        assert_se(report.n_warnings == 1 && reported(&report, false, "there is no user 'no-such-user-here'"));
        config_free(c);
        config_report_deinit(&report);
        assert_se(!load("[Budget uid:no-such-user-here]\nWeight=0\n", &report));
        assert_se(report.n_errors == 1 && report.n_warnings == 1);
        config_report_deinit(&report);
}

TEST(a_limit_without_effect_is_kept_with_a_warning) {
        struct config_report report;
        struct config *c =
                load("[Budget uid:0]\nSessionMax=infinity\n[Budget default]\nWeight=5\nSessionMax=1G\n", &report);

        assert_se(c && c->budgets.rules[1].policy.session_max == UINT64_C(1) << 30 && report.n_warnings == 1);
        assert_se(reported(&report, false, "moed.conf:5: SessionMax=1G: without effect, this version keeps no "));
        config_free(c);
        config_report_deinit(&report);
}

TEST(hostile_bytes_are_refused_and_cannot_forge_a_line) {
        static const char nul[] = "[Daemon]\nRowsMax=1\0\nThreads=2\n";
        char *line = malloc(CONFIG_LINE_MAX + 32);
        struct config_report report;

        assert_se(line);
        assert_se(accepted("[Daemon]\n"));
        write_bytes("moed.conf", nul, sizeof(nul) - 1);
        assert_se(!load(NULL, &report) && reported(&report, true, "moed.conf:2: a NUL byte"));
        config_report_deinit(&report);

        memset(line, '#', CONFIG_LINE_MAX);
        line[CONFIG_LINE_MAX] = '\0';
        assert_se(accepted(line));
        strcat(line, "#\n");
        assert_se(!load(line, &report) && reported(&report, true, "moed.conf:1: a line of 8193 bytes"));
        config_report_deinit(&report);

        assert_se(!load("[Daemon]\nRowsMax=\033[2J\x01\n", &report));
        for (const char *c = report.messages[0].text; *c; c++)
                assert_se((unsigned char) *c >= ' ');
        config_report_deinit(&report);
        free(line);
}

/* Every cut of the example, and thousands of copies with a few bytes changed, by a fixed generator. */
TEST(damaged_files_are_refused_or_read_and_nothing_else) {
        static const char alphabet[] = "[]=#; \n\r\t\0\xff%s0129.KMGaz-";
        char text[16384], copy[16384];
        FILE *f = fopen(EXAMPLE, "r");
        uint64_t random = 88172645463325252;
        size_t length;

        assert_se(f);
        length = fread(text, 1, sizeof(text), f);
        fclose(f);
        for (size_t i = 0; i < length; i++) /* with its comments, except their first letters */
                if (text[i] == '#' && i + 1 < length && text[i + 1] != ' ')
                        text[i] = ' ';
        for (size_t i = 0; i < 4000; i++) {
                struct config_report report = CONFIG_REPORT_NULL;
                struct config *config;

                memcpy(copy, text, length);
                for (int j = 0; j < 4; j++) {
                        random ^= random << 13; /* xorshift64 (Marsaglia 2003) */
                        random ^= random >> 7;
                        random ^= random << 17;
                        copy[(random >> 32) % length] = alphabet[(random >> 16) % sizeof(alphabet)];
                }
                assert_se(config_new(&config) == 0);
                assert_se(config_parse(config, "x", copy, i < length ? i : length, &report) == 0);
                config_parse_finish(config, &report);
                assert_se(config->rows_max >= 1 && config->rows_max <= 4096 && config->n_models <= CONFIG_MODELS_MAX);
                for (size_t j = 0; j < config->budgets.n_rules; j++)
                        assert_se(config->budgets.rules[j].policy.weight >= 1);
                config_free(config);
                config_report_deinit(&report);
        }
}

TEST(a_file_has_at_most_a_mebibyte) {
        char *text = malloc(CONFIG_FILE_MAX + 1);
        struct config_report report;

        assert_se(text && accepted(""));
        memset(text, '\n', CONFIG_FILE_MAX + 1);
        write_bytes("moed.conf", text, CONFIG_FILE_MAX);
        assert_se(accepted(NULL));
        write_bytes("moed.conf", text, CONFIG_FILE_MAX + 1);
        assert_se(!load(NULL, &report) && reported(&report, true, "is larger than 1024 KiB"));
        config_report_deinit(&report);
        free(text);
}

TEST(only_plain_files_are_read) {
        struct config_report report;

        folder_make();
        assert_se(mkfifo(path_of("moed.conf"), 0600) == 0);
        assert_se(!load(NULL, &report) && reported(&report, true, "is not a plain file"));
        config_report_deinit(&report);
        assert_se(unlink(path_of("moed.conf")) == 0);
        assert_se(!load(NULL, &report) && reported(&report, true, "No such file or directory"));
        config_report_deinit(&report);
        assert_se(mkdir(path_of("moed.conf"), 0700) == 0);
        assert_se(!load(NULL, &report) && reported(&report, true, "is not a plain file"));
        config_report_deinit(&report);
        assert_se(rmdir(path_of("moed.conf")) == 0 && symlink("/dev/null", path_of("moed.conf")) == 0);
        assert_se(accepted(NULL));
}

TEST(drop_ins_follow_in_the_order_of_their_names) {
        struct config_report report;
        struct config *c;

        assert_se(accepted(""));
        assert_se(mkdir(path_of("moed.conf.d"), 0700) == 0);
        write_file("moed.conf.d/20-b.conf", "[Daemon]\nRowsMax=20\n[Budget uid:0]\nWeight=20\n");
        write_file("moed.conf.d/10-a.conf", "[Daemon]\nRowsMax=10\nThreads=10\n[Model m]\nDefault=yes\n");
        write_file("moed.conf.d/30-c.conf.off", "[Daemon]\nRowsMax=0\n");
        write_file("moed.conf.d/.40-d.conf", "[Daemon]\nRowsMax=0\n");
        c = load("[Daemon]\nRowsMax=5\nThreads=5\nSpinUsec=5\n[Model n]\nFile=/n\n[Model m]\nFile=/m\n"
                 "[Budget uid:0]\nExpertsMax=4\n",
                 &report);
        assert_se(c && c->rows_max == 20 && c->threads == 10 && c->spin_usec == 5);
        assert_se(strcmp(config_default_model(c)->name, "m") == 0);
        assert_se(c->budgets.n_rules == 1 &&
                  c->budgets.rules[0].keys == (1u << POLICY_KEY_EXPERTS_MAX | 1u << POLICY_KEY_WEIGHT));
        assert_se(strstr(c->budgets.rules[0].sources[POLICY_KEY_WEIGHT], "moed.conf.d/20-b.conf:4"));
        config_free(c);
        write_file("moed.conf.d/20-b.conf", "[Daemon]\nRowsMax=a\n");
        assert_se(!load(NULL, &report) && reported(&report, true, "moed.conf.d/20-b.conf:2: RowsMax=a"));
        config_report_deinit(&report);
}

/* Uncommented, the [Daemon], [Limits] and [Budget default] of the example must be valid and say just what holds without
 * them. */
TEST(the_example_shows_the_defaults) {
        char text[16384] = "", line[512];
        FILE *f = fopen(EXAMPLE, "r");
        struct config_report report;
        struct config *example, *defaults;

        assert_se(f);
        while (fgets(line, sizeof(line), f))
                strcat(text, line[0] == '#' && line[1] >= 'A' && line[1] <= '[' && line[2] != ' ' ? line + 1 : line);
        fclose(f);
        example = load(text, &report);
        assert_se(config_new(&defaults) == 0);
        assert_se(example && example->socket && example->n_models == 1 && example->budgets.n_rules >= 2);
        assert_se(example->threads == defaults->threads && example->kv_memory == defaults->kv_memory);
        assert_se(example->kv_type == defaults->kv_type && example->rows_max == defaults->rows_max);
        assert_se(example->prompt_rows_max == defaults->prompt_rows_max && example->context_max == 0 &&
                  !example->context_extend);
        assert_se(example->spin_usec == defaults->spin_usec && example->log_level == defaults->log_level);
        assert_se(example->drain_timeout_nsec == defaults->drain_timeout_nsec);
        assert_se(example->socket_mode == defaults->socket_mode);
        assert_se(memcmp(&example->limits, &defaults->limits, sizeof(example->limits)) == 0);
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++) {
                struct policy built_in = POLICY_DEFAULT;

                assert_se(example->budgets.rules[0].keys & (1u << key));
                assert_se(policy_key_get(&example->budgets.rules[0].policy, key) == policy_key_get(&built_in, key));
        }
        config_free(example);
        config_free(defaults);
        config_report_deinit(&report);
}

TEST(a_user_instance_reads_the_users_own_folder) {
        struct config_report report = CONFIG_REPORT_NULL;
        struct config *c;

        folder_make();
        assert_se(unsetenv("XDG_CONFIG_HOME") == 0 && setenv("HOME", folder, 1) == 0);
        assert_se(config_load(&c, NULL, CONFIG_USER, &report) == 0 && !c->source);
        config_free(c);
        assert_se(mkdir(path_of(".config"), 0700) == 0 && mkdir(path_of(".config/moed"), 0700) == 0);
        assert_se(mkdir(path_of(".config/moed/moed.conf.d"), 0700) == 0);
        write_file(".config/moed/moed.conf.d/a.conf", "[Daemon]\nThreads=7\n");
        assert_se(config_load(&c, NULL, CONFIG_USER, &report) == 0 && !c->source && c->threads == 7);
        config_free(c);
        write_file(".config/moed/moed.conf", "[Daemon]\nRowsMax=7\n");
        assert_se(config_load(&c, NULL, CONFIG_USER, &report) == 0 && c->source && c->rows_max == 7 && c->threads == 7);
        config_free(c);
        assert_se(setenv("XDG_CONFIG_HOME", path_of("elsewhere"), 1) == 0);
        assert_se(config_load(&c, NULL, CONFIG_USER, &report) == 0 && !c->source && c->rows_max == 512);
        config_free(c);
}

TEST(saved_budgets_are_read_apart_from_the_configuration) {
        struct config_report report;
        struct config *c;

        assert_se(unsetenv("STATE_DIRECTORY") == 0);
        folder_make();
        write_file("moed.conf.saved", "[Budget uid:0]\nWeight=9\n");
        c = load("[Budget uid:0]\nWeight=5\n", &report);
        assert_se(c && c->budgets.rules[0].policy.weight == 5);
        assert_se(c->saved.n_rules == 1 && c->saved.rules[0].policy.weight == 9);
        assert_se(strcmp(c->saved_path, path_of("moed.conf.saved")) == 0);
        assert_se(strstr(c->saved.rules[0].sources[POLICY_KEY_WEIGHT], "moed.conf.saved:2"));
        config_free(c);

        assert_se(mkdir(path_of("state"), 0700) == 0);
        assert_se(setenv("STATE_DIRECTORY", path_of("state:/nowhere"), 1) == 0);
        write_file("state/budget.conf", "[Budget uid:0]\nWeight=10\n");
        c = load(NULL, &report);
        assert_se(c && c->saved.rules[0].policy.weight == 10);
        config_free(c);
        write_file("state/budget.conf", "[Budget uid:0]\nWeight=0\n[Daemon]\nRowsMax=1\n");
        assert_se(!load(NULL, &report) && report.n_errors == 2);
        assert_se(reported(&report, true,
                           "state/budget.conf:3: [Daemon]: only [Budget PRINCIPAL] may stand in this file"));
        config_report_deinit(&report);

        /* The user's instance, without the service manager. */
        report = (struct config_report) CONFIG_REPORT_NULL;
        assert_se(unsetenv("STATE_DIRECTORY") == 0 && unsetenv("XDG_STATE_HOME") == 0 &&
                  setenv("HOME", folder, 1) == 0);
        assert_se(config_load(&c, NULL, CONFIG_USER, &report) == 0);
        assert_se(strcmp(c->saved_path, path_of(".local/state/moed/budget.conf")) == 0 && c->saved.n_rules == 0);
        config_free(c);
        assert_se(unsetenv("HOME") == 0 && config_load(&c, NULL, CONFIG_USER, &report) == 0 && !c->saved_path);
        config_free(c);
}

TEST(every_budget_that_is_written_is_read_back) {
        struct config_report report;
        struct config *c =
                load("[Budget uid:0]\nExpertsMax=1.001\nExpertsMin=0.5\nWeight=7\nClass=batch\nLatencyTarget=1001us\n"
                     "ActivationRate=123\nActivationBurst=auto\nOnEmpty=wait\nAdaptive=no\nKvMax=65537\n"
                     "QueueMax=1\nSessionMax=1T\n[Budget unit:a\\x2db]\n[Budget gid:0]\nWeight=2\n",
                     &report);
        struct config *again;
        char *text;

        assert_se(c && policy_table_write(&c->budgets, &text) == 0);
        assert_se(config_new(&again) == 0 && config_parse_saved(again, "saved", text, strlen(text), &report) == 0);
        assert_se(report.n_errors == 0 && again->saved.n_rules == 3);
        for (size_t i = 0; i < 3; i++) {
                struct policy_rule *a = &c->budgets.rules[i], *b = &again->saved.rules[i];

                assert_se(policy_principal_equal(&a->principal, &b->principal) && a->keys == b->keys);
                for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                        assert_se(policy_key_get(&a->policy, key) == policy_key_get(&b->policy, key));
        }
        free(text);
        config_free(c);
        config_free(again);
        config_report_deinit(&report);
}

TEST(models_of_the_command_line_join_those_of_the_file) {
        struct config_report report;
        struct config *c = load("[Model m]\nFile=/m\n", &report);
        struct reason reason = REASON_INIT;
        char here[4096];

        assert_se(c && getcwd(here, sizeof(here)));
        assert_se(config_add_model(c, "n", "x.gguf", &reason) == 0);
        assert_se(c->n_models == 2 && strncmp(c->models[1].file, here, strlen(here)) == 0);
        assert_se(strcmp(config_default_model(c)->name, "m") == 0);
        assert_se(config_add_model(c, "m", "/other", &reason) == 0);
        assert_se(c->n_models == 2 && strcmp(c->models[0].file, "/other") == 0);
        assert_se(config_add_model(c, "a b", "/x", &reason) == CONFIG_E_INVALID && strstr(reason.text, "A-Z"));
        assert_se(config_add_model(c, "x", "", &reason) == CONFIG_E_INVALID && strstr(reason.text, "lacks the path"));
        for (int i = 2; i < CONFIG_MODELS_MAX; i++) {
                char name[16];

                sprintf(name, "m%d", i);
                assert_se(config_add_model(c, name, "/x", &reason) == 0);
        }
        assert_se(config_add_model(c, "last", "/x", &reason) == CONFIG_E_INVALID && strstr(reason.text, "256"));
        config_free(c);
        assert_se(config_new(&c) == 0 && config_add_model(c, "first", "/x", NULL) == 0);
        assert_se(config_default_model(c) == &c->models[0]);
        config_free(c);
}

TEST(durations_and_sizes_are_read_exactly) {
        static const struct {
                const char *text;
                uint64_t nsec;
        } spans[] = { { "0", 0 },          { "5", 5 * NSEC_PER_SEC },    { "5s", 5 * NSEC_PER_SEC },
                      { "5 s", 5 * NSEC_PER_SEC }, { "250ms", 250 * NSEC_PER_MSEC }, { "3us", 3000 },
                      { "1h 2min 3sec 4msec 5usec", 3723004005000 } };
        static const char *const bad[] = { "", " ", "s", "5x", "5 fortnights", "-1", "1.5s", "18446744073709551615h" };
        uint64_t n;

        for (size_t i = 0; i < ELEMENTS(spans); i++)
                assert_se(config_value_span(spans[i].text, NSEC_PER_SEC, 0, UINT64_MAX, &n, NULL) == 0 &&
                          n == spans[i].nsec);
        for (size_t i = 0; i < ELEMENTS(bad); i++)
                assert_se(config_value_span(bad[i], NSEC_PER_SEC, 0, UINT64_MAX, &n, NULL) != 0);
        assert_se(config_value_size("16777215T", 0, UINT64_MAX, &n, NULL) == 0 && n == UINT64_C(16777215) << 40);
        assert_se(config_value_size("16777216T", 0, UINT64_MAX, &n, NULL) != 0);
        assert_se(config_value_size("18446744073709551615", 0, UINT64_MAX, &n, NULL) == 0 && n == UINT64_MAX);
        assert_se(config_value_size("18446744073709551616", 0, UINT64_MAX, &n, NULL) != 0);
        assert_se(config_value_size("1k", 0, UINT64_MAX, &n, NULL) != 0);
        assert_se(config_value_size("1KB", 0, UINT64_MAX, &n, NULL) != 0);
        assert_se(config_value_size("", 0, UINT64_MAX, &n, NULL) != 0);
}
