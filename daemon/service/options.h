/* SPDX-License-Identifier: MIT */
#pragma once

/* moed's command line, which goes over moed.conf at the start and at every reload. */

#include <stdbool.h>

#include "calibrate-tool.h"
#include "config.h"

enum { OPTIONS_MODELS_MAX = 64 };

struct options {
        const char *config; /* all strings are argv's */
        const char *socket;
        const char *models[OPTIONS_MODELS_MAX]; /* NAME=FILE or FILE */
        unsigned n_models;
        bool check_config;
        const char *inspect; /* the file; NULL: serve */
        bool json;
        const char *convert;  /* to this type, files[0] into files[1]; NULL: serve */
        const char *files[2];
        struct calibrate_call calibrate; /* without a model: serve */
        bool force;
        enum config_scope scope;
        bool has_threads, has_context, has_kv_type, has_log_level;
        uint32_t threads, context;
        enum config_kv_type kv_type;
        int log_level;
};

/* Reads the command line. -1: go on; else the exit status (--help, --version, or a mistake, which has been told). */
int options_parse(struct options *ret, int argc, char **argv);
/* Reads the configuration and applies the options. Without any model to serve the one that comes with moed is added, if
 * it is there, and that is told. What is wrong goes to the log, or to `out` if that is not NULL. The last mistake is in
 * `reason`. CONFIG_E_INVALID, negative errno. */
int options_load_config(const struct options *options, struct config **ret, FILE *out, struct reason *reason);
