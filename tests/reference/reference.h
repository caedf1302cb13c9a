/* SPDX-License-Identifier: MIT */
#pragma once

/* Reference fixtures: expected values from other programs, in folders (formats: README.md of the fixtures).
 * Each kind of fixture has a function here that runs one folder of it and says a line per promise. A folder
 * or file that this build cannot run, for want of an architecture or a format, is a skip with the reason;
 * anything else that is wrong with it is a failure. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "base/cleanup.h"

struct reference {
        struct backend *backend;
        uint32_t chunk; /* most tokens of a prompt per step */
        bool verbose;
        unsigned passed, failed, skipped;
};

/* One line; counts. `name` is what was run, the rest what came out. */
void say(struct reference *r, bool ok, const char *name, const char *format, ...) _printf_(4, 5);
void say_skip(struct reference *r, const char *name, const char *format, ...) _printf_(3, 4);

/* Run what is in the folder `path`, called `name` in the lines. */
void run_model(struct reference *r, const char *path, const char *name);
void run_blocks(struct reference *r, const char *path, const char *name);
void run_tokenizer(struct reference *r, const char *path, const char *name);
void run_samplers(struct reference *r, const char *path, const char *name);

/* A whole file; NULL when it cannot be read. The caller's to free. */
void *file_read(const char *folder, const char *name, size_t *ret_size);
/* The same, but NULL unless it has exactly `size` bytes. */
void *file_read_exactly(const char *folder, const char *name, size_t size);
/* A JSON file; NULL when it is not there or no JSON. The caller's: json_decref(). */
json_t *file_json(const char *folder, const char *name);

/* Of an object, with a value for a key that is absent or of another type. */
int64_t json_int(const json_t *object, const char *key, int64_t otherwise);
double json_float(const json_t *object, const char *key, double otherwise);
