/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "reference.h"

static const char usage[] =
        "Usage: reference [OPTION…] DIR\n"
        "Runs every reference fixture found in DIR that this build supports: models, quant-models, blocks,\n"
        "tokenizers, samplers. One line each, then 'N passed, N failed'.\n"
        "\n"
        "  --backend=ref|cpu  what computes (cpu)\n"
        "  --isa=NAME         most that the cpu backend may use: c, avx2, avx512, amx; aarch64: c, neon, i8mm\n"
        "  --threads=N        of the cpu backend (as many as there are)\n"
        "  --chunk=N          most tokens of a prompt per step (512)\n"
        "  --verbose          each case of a sampler or block, not only the worst\n"
        "  --help             this text\n"
        "\n"
        "Exit status: 0 all passed, 1 some failed, 77 nothing to run, 64 wrong usage.\n";

enum { CHUNK_MAX = 512 };

struct options {
        const char *backend, *isa, *root;
        uint32_t threads;
};

static void say_line(const char *verdict, const char *name, const char *format, va_list args) {
        printf("%s %s: ", verdict, name);
        vprintf(format, args);
        putchar('\n');
        fflush(stdout);
}

void say(struct reference *r, bool ok, const char *name, const char *format, ...) {
        va_list args;

        *(ok ? &r->passed : &r->failed) += 1;
        va_start(args, format);
        say_line(ok ? "ok  " : "FAIL", name, format, args);
        va_end(args);
}

void say_skip(struct reference *r, const char *name, const char *format, ...) {
        va_list args;

        r->skipped++;
        va_start(args, format);
        say_line("skip", name, format, args);
        va_end(args);
}

static int visible(const struct dirent *entry) {
        return entry->d_name[0] != '.';
}

static bool is_folder(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Runs every folder inside DIR/kind. */
static void run_each(struct reference *r, const char *root, const char *kind,
                     void (*run)(struct reference *r, const char *path, const char *name)) {
        _cleanup_(freep) char *folder = NULL;
        struct dirent **entries;
        int n;

        if (asprintf(&folder, "%s/%s", root, kind) < 0)
                abort();
        n = scandir(folder, &entries, visible, alphasort);
        for (int i = 0; i < n; i++) {
                _cleanup_(freep) char *path = NULL, *name = NULL;

                if (asprintf(&path, "%s/%s", folder, entries[i]->d_name) < 0 ||
                    asprintf(&name, "%s/%s", kind, entries[i]->d_name) < 0)
                        abort();
                if (is_folder(path))
                        run(r, path, name);
                free(entries[i]);
        }
        if (n >= 0)
                free(entries);
}

static void run_one(struct reference *r, const char *root, const char *kind,
                    void (*run)(struct reference *r, const char *path, const char *name)) {
        _cleanup_(freep) char *folder = NULL;

        if (asprintf(&folder, "%s/%s", root, kind) < 0)
                abort();
        if (is_folder(folder))
                run(r, folder, kind);
}

/* 0, or what to exit with; -1: go on. */
static int parse(int argc, char **argv, struct options *o, struct reference *r) {
        static const struct option options[] = {
                { "backend", required_argument, NULL, 'b' }, { "isa", required_argument, NULL, 'i' },
                { "threads", required_argument, NULL, 't' }, { "chunk", required_argument, NULL, 'c' },
                { "verbose", no_argument, NULL, 'v' },       { "help", no_argument, NULL, 'h' },
                { NULL },
        };
        int c;

        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                switch (c) {
                case 'b':
                        o->backend = optarg;
                        break;
                case 'i':
                        o->isa = optarg;
                        break;
                case 't':
                        o->threads = (uint32_t) strtoul(optarg, NULL, 10);
                        break;
                case 'c':
                        r->chunk = (uint32_t) strtoul(optarg, NULL, 10);
                        break;
                case 'v':
                        r->verbose = true;
                        break;
                case 'h':
                        fputs(usage, stdout);
                        return 0;
                default:
                        return 64;
                }
        }
        if (optind + 1 != argc || r->chunk < 1 || r->chunk > CHUNK_MAX) {
                fputs(usage, stderr);
                return 64;
        }
        o->root = argv[optind];
        return -1;
}

static int open_backend(struct backend **ret, const struct options *o) {
        if (strcmp(o->backend, "ref") == 0)
                return backend_ref_new(ret);
        if (strcmp(o->backend, "cpu") == 0)
                return backend_cpu_new(ret,
                                       &(struct backend_cpu_options) { .threads = o->threads, .isa = o->isa });
        return -EINVAL;
}

int main(int argc, char **argv) {
        _cleanup_(backend_freep) struct backend *backend = NULL;
        struct options options = { .backend = "cpu" };
        struct reference r = { .chunk = CHUNK_MAX };
        int error;

        error = parse(argc, argv, &options, &r);
        if (error >= 0)
                return error;
        if (!is_folder(options.root)) {
                fprintf(stderr, "reference: %s is not a folder\n", options.root);
                return 77;
        }
        error = open_backend(&backend, &options);
        if (error) {
                fprintf(stderr, "reference: backend %s: %s\n", options.backend, strerror(-error));
                return 64;
        }
        r.backend = backend;
        run_each(&r, options.root, "models", run_model);
        run_each(&r, options.root, "quant-models", run_model);
        run_one(&r, options.root, "blocks", run_blocks);
        run_each(&r, options.root, "tokenizers", run_tokenizer);
        run_one(&r, options.root, "samplers", run_samplers);
        printf("%u skipped\n%u passed, %u failed\n", r.skipped, r.passed, r.failed);
        return r.failed ? 1 : r.passed ? 0 : 77;
}
