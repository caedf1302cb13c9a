/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "config-value.h"
#include "default-model.h"
#include "options.h"

static const char help[] =
        "Usage: moed [OPTION]...\n"
        "       moed --calibrate MODEL --text FILE [OPTION]...\n"
        "       moed --convert TYPE [--force] IN OUT\n"
        "Serve mixture-of-experts language models to the programs of this machine.\n"
        "\n"
        "  -c, --config FILE        read FILE and FILE.d/*.conf instead of moed.conf\n"
        "  -m, --model [NAME=]FILE  serve this GGUF file; may be given several times, the first is the default\n"
        "                           (without any, and none in moed.conf: the small demo model that comes with moed)\n"
        "  -s, --socket PATH        listen there (default: /run/moed/moed.sock, or $XDG_RUNTIME_DIR/moed/moed.sock)\n"
        "  -t, --threads N          threads that compute (default: as many as the machine has to give)\n"
        "      --kv-type TYPE       keys and values as auto, f16, bf16 or f32 (default: auto)\n"
        "      --log-level LEVEL    err, warning, notice, info or debug\n"
        "      --system, --user     be the machine's service (the default for root) or that of one user\n"
        "      --context N          tokens of the longest text, if the model has not fewer\n"
        "      --inspect FILE       say what this GGUF file is and what it would cost here, and exit\n"
        "      --json               with --inspect, --calibrate: for programs\n"
        "      --calibrate FILE     measure which layers of this GGUF file need their experts most, and exit; with\n"
        "        --text FILE        on this text,\n"
        "        --tokens N         no more of it than that (default: 8192),\n"
        "        --special          in which control tokens may be spelled;\n"
        "        --predictor        and learn to tell what a token needs from what it is after the first layers;\n"
        "        --out FILE         into this file, not the one that is found with the model\n"
        "      --convert TYPE       write the GGUF file IN as OUT, with matrices of that type, and exit\n"
        "      --force              with --convert, --calibrate: replace the file if it is there\n"
        "      --check-config       say what is wrong with the configuration, and exit\n"
        "  -h, --help               show this and exit\n"
        "  -V, --version            show the version and exit\n"
        "\n"
        "It stays in the foreground. SIGTERM: end when the running generations have; SIGHUP: read the configuration "
        "anew.\n"
        "moed(8), moed.conf(5), moectl(1)\n";

static int usage(const char *format, const char *what) {
        fprintf(stderr, "moed: ");
        fprintf(stderr, format, what);
        fprintf(stderr, "\nTry 'moed --help'.\n");
        return EX_USAGE;
}

/* Says what would have been allowed. */
static int bad_value(const char *option, const char *value, const struct reason *reason) {
        fprintf(stderr, "moed: --%s=%s: %s\nTry 'moed --help'.\n", option, value, reason->text);
        return EX_USAGE;
}

static int options_threads(struct options *options, const char *value) {
        struct reason reason = REASON_INIT;
        uint64_t n;

        if (config_value_number(value, 1, CONFIG_THREADS_MAX, &n, &reason) != 0)
                return bad_value("threads", value, &reason);
        options->has_threads = true;
        options->threads = (uint32_t) n;
        return -1;
}

static int options_context(struct options *options, const char *value) {
        struct reason reason = REASON_INIT;
        uint64_t n;

        if (config_value_number(value, CONFIG_CONTEXT_MIN, CONFIG_CONTEXT_MAX, &n, &reason) != 0)
                return bad_value("context", value, &reason);
        options->has_context = true;
        options->context = (uint32_t) n;
        return -1;
}

static int options_tokens(struct options *options, const char *value) {
        struct reason reason = REASON_INIT;
        uint64_t n;

        if (config_value_number(value, 1, CALIBRATE_TOKENS_MAX, &n, &reason) != 0)
                return bad_value("tokens", value, &reason);
        options->calibrate.tokens = (uint32_t) n;
        return -1;
}

static int options_kv_type(struct options *options, const char *value) {
        struct reason reason = REASON_INIT;

        if (config_kv_type_parse(value, &options->kv_type, &reason) != 0)
                return bad_value("kv-type", value, &reason);
        options->has_kv_type = true;
        return -1;
}

static int options_log_level(struct options *options, const char *value) {
        struct reason reason = REASON_INIT;

        if (config_value_log_level(value, &options->log_level, &reason) != 0)
                return bad_value("log-level", value, &reason);
        options->has_log_level = true;
        return -1;
}

static int options_value(struct options *options, int option, const char *value) {
        switch (option) {
        case 'c':
                options->config = value;
                return -1;
        case 's':
                options->socket = value;
                return -1;
        case 'm':
                if (options->n_models == OPTIONS_MODELS_MAX)
                        return usage("%s", "too many models; put them into moed.conf");
                options->models[options->n_models++] = value;
                return -1;
        case 't':
                return options_threads(options, value);
        case 'k':
                return options_kv_type(options, value);
        case 'l':
                return options_log_level(options, value);
        case 'S':
        case 'U':
                options->scope = option == 'S' ? CONFIG_SYSTEM : CONFIG_USER;
                return -1;
        case 'C':
                options->check_config = true;
                return -1;
        case 'x':
                return options_context(options, value);
        case 'I':
                options->inspect = value;
                return -1;
        case 'J':
                options->json = true;
                return -1;
        case 'T':
                options->convert = value;
                return -1;
        case 'A':
                options->calibrate.model = value;
                return -1;
        case 'X':
                options->calibrate.text = value;
                return -1;
        case 'O':
                options->calibrate.out = value;
                return -1;
        case 'N':
                return options_tokens(options, value);
        case 'P':
                options->calibrate.predictor = true;
                return -1;
        case 'E':
                options->calibrate.special = true;
                return -1;
        case 'F':
                options->force = true;
                return -1;
        case 'h':
                fputs(help, stdout);
                return EX_OK;
        case 'V':
                puts("moed " MOED_VERSION);
                return EX_OK;
        }
        fprintf(stderr, "Try 'moed --help'.\n");
        return EX_USAGE;
}

int options_parse(struct options *ret, int argc, char **argv) {
        static const struct option table[] = {
                { "config", required_argument, NULL, 'c' },    { "model", required_argument, NULL, 'm' },
                { "socket", required_argument, NULL, 's' },    { "threads", required_argument, NULL, 't' },
                { "kv-type", required_argument, NULL, 'k' },   { "log-level", required_argument, NULL, 'l' },
                { "check-config", no_argument, NULL, 'C' },    { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'V' },         { "system", no_argument, NULL, 'S' },
                { "user", no_argument, NULL, 'U' },            { "context", required_argument, NULL, 'x' },
                { "inspect", required_argument, NULL, 'I' },   { "json", no_argument, NULL, 'J' },
                { "convert", required_argument, NULL, 'T' },   { "force", no_argument, NULL, 'F' },
                { "calibrate", required_argument, NULL, 'A' }, { "text", required_argument, NULL, 'X' },
                { "out", required_argument, NULL, 'O' },       { "tokens", required_argument, NULL, 'N' },
                { "predictor", no_argument, NULL, 'P' },       { "special", no_argument, NULL, 'E' },
                {},
        };
        struct options options = {
                .scope = geteuid() == 0 ? CONFIG_SYSTEM : CONFIG_USER, .calibrate.tokens = CALIBRATE_TOKENS,
        };
        int option, r;

        while ((option = getopt_long(argc, argv, "c:m:s:t:hV", table, NULL)) >= 0) {
                r = options_value(&options, option, optarg);
                if (r >= 0)
                        return r;
        }
        for (unsigned i = 0; options.convert && i < ELEMENTS(options.files); i++) {
                if (optind == argc)
                        return usage("%s", "--convert takes a file to read and one to write");
                options.files[i] = argv[optind++];
        }
        if (!options.calibrate.model != !options.calibrate.text)
                return usage("%s", "--calibrate and --text belong together");
        options.calibrate.threads = options.threads;
        options.calibrate.force = options.force;
        options.calibrate.json = options.json;
        if (optind < argc)
                return usage("unexpected argument: %s", argv[optind]);
        *ret = options;
        return -1;
}

/* "NAME=FILE", or "FILE", whose name is then its last component without .gguf. */
static int add_model(struct config *config, const char *text, struct reason *reason) {
        const char *equals = strchr(text, '='), *slash = strchr(text, '/'), *file = text;
        char name[CONFIG_MODEL_NAME_MAX + 1];
        size_t length;

        if (equals && (!slash || equals < slash)) {
                length = (size_t) (equals - text);
                file = equals + 1;
        } else {
                text = strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
                length = strlen(text);
                if (length > 5 && strcmp(text + length - 5, ".gguf") == 0)
                        length -= 5;
        }
        if (length >= sizeof(name))
                return reason_return(reason, CONFIG_E_INVALID, "the name of model %s is longer than %u bytes; use "
                                     "--model NAME=FILE", file, (unsigned) CONFIG_MODEL_NAME_MAX);
        memcpy(name, text, length);
        name[length] = '\0';
        return config_add_model(config, name, file, reason);
}

/* A configuration without a model gets the one that comes with moed, if that is there. */
static int add_default_model(struct config *config, FILE *out, struct reason *reason) {
        _cleanup_(freep) char *file = NULL;
        int r;

        r = default_model_find(&file);
        if (r < 0 || !file)
                return r;
        if (out)
                fprintf(out, "no model is configured; the demo model %s serves\n", file);
        else
                log_info("no model is configured: serving the demo model, %s", file);
        return config_add_model(config, DEFAULT_MODEL_NAME, file, reason);
}

static void tell(const struct config_report *report, FILE *out, struct reason *reason) {
        for (size_t i = 0; i < report->n_messages; i++) {
                const struct config_message *m = &report->messages[i];

                if (out)
                        fprintf(out, "%s: %s\n", m->error ? "error" : "warning", m->text);
                else
                        log_line(m->error ? LOG_ERR : LOG_WARNING, NULL, "%s", m->text);
                if (m->error)
                        reason_set(reason, "%s", m->text);
        }
}

int options_load_config(const struct options *options, struct config **ret, FILE *out, struct reason *reason) {
        struct config_report report = CONFIG_REPORT_NULL;
        _cleanup_(config_freep) struct config *config = NULL;
        int r;

        r = config_load(&config, options->config, options->scope, &report);
        tell(&report, out, reason);
        config_report_deinit(&report);
        if (r != 0)
                return r;
        for (unsigned i = 0; i < options->n_models; i++) {
                r = add_model(config, options->models[i], reason);
                if (r != 0)
                        return r;
        }
        if (config->n_models == 0 && !options->inspect) {
                r = add_default_model(config, out, reason);
                if (r != 0)
                        return r;
        }
        if (options->has_threads)
                config->threads = options->threads;
        if (options->has_context)
                config->context_max = options->context;
        if (options->has_kv_type)
                config->kv_type = options->kv_type;
        if (options->has_log_level)
                config->log_level = options->log_level;
        *ret = steal_ptr(config);
        return 0;
}
