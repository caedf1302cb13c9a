/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "reference.h"

void *file_read(const char *folder, const char *name, size_t *ret_size) {
        _cleanup_(fclosep) FILE *f = NULL;
        _cleanup_(freep) char *data = NULL, *path = NULL;
        struct stat st;

        if (asprintf(&path, "%s/%s", folder, name) < 0) {
                path = NULL;
                return NULL;
        }
        f = fopen(path, "re");
        if (!f || fstat(fileno(f), &st) < 0)
                return NULL;
        data = malloc((size_t) st.st_size + 1);
        if (!data || fread(data, 1, (size_t) st.st_size, f) != (size_t) st.st_size)
                return NULL;
        data[st.st_size] = '\0';
        *ret_size = (size_t) st.st_size;
        return steal_ptr(data);
}

void *file_read_exactly(const char *folder, const char *name, size_t size) {
        size_t is;
        void *data = file_read(folder, name, &is);

        if (data && is == size)
                return data;
        free(data);
        return NULL;
}

json_t *file_json(const char *folder, const char *name) {
        size_t size;
        _cleanup_(freep) char *text = file_read(folder, name, &size);

        return text ? json_loadb(text, size, 0, NULL) : NULL;
}

int64_t json_int(const json_t *object, const char *key, int64_t otherwise) {
        const json_t *value = json_object_get(object, key);

        return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

double json_float(const json_t *object, const char *key, double otherwise) {
        const json_t *value = json_object_get(object, key);

        return json_is_number(value) ? json_number_value(value) : otherwise;
}
