/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <syslog.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "config-parse.h"
#include "config-value.h"
#include "wire.h"

enum { DROPINS_MAX = 1024, FOLDERS_MAX = 3 };

const struct config config_defaults = {
        .socket_mode = 0666, /* everybody may ask; what each may use is a matter of budgets */
        .kv_memory = UINT64_C(1) << 30,
        .kv_type = CONFIG_KV_AUTO,
        .rows_max = 512,
        .prefix_cache = true,
        .long_rows_max = 2048,
        .spin_usec = 50,
        .drain_timeout_nsec = 30 * NSEC_PER_SEC,
        .log_level = LOG_INFO,
        .admin_gid = (gid_t) -1,
        .limits = {
                .connections_max = 64,
                .streams_max = 64,
                .queue_max = 256,
                .ring_entries_max = WIRE_ENTRIES_MAX,
                .arena_max = UINT64_C(256) << 20,
                .prompt_bytes_max = UINT64_C(16) << 20,
        },
};

static const struct {
        const char *name;
        enum quant_type quant; /* not of CONFIG_KV_AUTO */
} kv_types[_CONFIG_KV_N] = {
        [CONFIG_KV_AUTO] = { "auto", 0 },
        [CONFIG_KV_F16] = { "f16", QUANT_F16 },
        [CONFIG_KV_BF16] = { "bf16", QUANT_BF16 },
        [CONFIG_KV_F32] = { "f32", QUANT_F32 },
};

void config_report_deinit(struct config_report *report) {
        for (size_t i = 0; i < report->n_messages; i++)
                free(report->messages[i].text);
        free(report->messages);
        *report = (struct config_report) CONFIG_REPORT_NULL;
}

/* Names and values come from a file: nothing in them may act on a terminal or forge a line of the log. */
static void make_printable(char *text) {
        for (; *text; text++)
                if ((unsigned char) *text < ' ' || *text == 0x7f)
                        *text = '?';
}

/* A message for which there is no memory is counted all the same, so that a mistake is never taken for none. */
void config_report_add(struct config_report *report, bool error, const char *format, ...) {
        struct config_message *messages;
        char *text;
        va_list args;
        int r;

        if (error)
                report->n_errors++;
        else
                report->n_warnings++;
        if (report->n_messages == CONFIG_MESSAGES_MAX)
                return;
        va_start(args, format);
        r = vasprintf(&text, format, args);
        va_end(args);
        if (r < 0)
                return;
        messages = realloc(report->messages, (report->n_messages + 1) * sizeof(*messages));
        if (!messages) {
                free(text);
                return;
        }
        make_printable(text);
        report->messages = messages;
        report->messages[report->n_messages++] = (struct config_message) { .error = error, .text = text };
}

int config_new(struct config **ret) {
        struct config *config = malloc(sizeof(*config));

        if (!config)
                return -ENOMEM;
        *config = config_defaults;
        *ret = config;
        return 0;
}

void config_free(struct config *config) {
        if (!config)
                return;
        for (size_t i = 0; i < config->n_models; i++) {
                free(config->models[i].name);
                free(config->models[i].file);
                free(config->models[i].source);
        }
        free(config->models);
        free(config->source);
        free(config->socket);
        policy_table_deinit(&config->budgets);
        free(config->saved_path);
        policy_table_deinit(&config->saved);
        free(config);
}

void config_freep(struct config **config) {
        config_free(*config);
}

int config_kv_type_parse(const char *name, enum config_kv_type *ret, struct reason *reason) {
        char list[64] = "";
        size_t used = 0;

        for (size_t i = 0; i < _CONFIG_KV_N; i++) {
                if (strcmp(name, kv_types[i].name) == 0) {
                        *ret = (enum config_kv_type) i;
                        return 0;
                }
                used += (size_t) snprintf(list + used, sizeof(list) - used, "%s%s",
                                          i == 0 ? "" : i + 1 < _CONFIG_KV_N ? ", " : " or ", kv_types[i].name);
        }
        return reason_return(reason, CONFIG_E_INVALID, "%s is allowed", list);
}

enum quant_type config_kv_quant(enum config_kv_type type, enum quant_type best) {
        return type == CONFIG_KV_AUTO ? best : kv_types[type].quant;
}

int config_model_name_check(const char *name, struct reason *reason) {
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:";
        size_t length = strlen(name);

        if (length == 0 || length > CONFIG_MODEL_NAME_MAX || strspn(name, allowed) != length)
                return reason_return(reason, CONFIG_E_INVALID, "a model's name has 1 to %d of A-Z a-z 0-9 . _ - :",
                                     CONFIG_MODEL_NAME_MAX);
        return 0;
}

const struct config_model *config_find_model(const struct config *config, const char *name) {
        for (size_t i = 0; i < config->n_models; i++)
                if (strcmp(config->models[i].name, name) == 0)
                        return &config->models[i];
        return NULL;
}

bool config_prefix_cache(const struct config *config, const struct config_model *model) {
        return model && model->has_prefix_cache ? model->prefix_cache : config->prefix_cache;
}

uint64_t config_idle_unload(const struct config *config, const struct config_model *model) {
        return model && model->has_idle_unload ? model->idle_unload_nsec : config->idle_unload_nsec;
}

int config_model_get(struct config *config, const char *name, const char *source, struct config_model **ret) {
        _cleanup_(freep) char *copy = NULL, *where = NULL;
        struct config_model *models;

        for (size_t i = 0; i < config->n_models; i++)
                if (strcmp(config->models[i].name, name) == 0) {
                        *ret = &config->models[i];
                        return 0;
                }
        if (config->n_models == CONFIG_MODELS_MAX)
                return CONFIG_E_INVALID;
        copy = strdup(name);
        where = strdup(source);
        models = realloc(config->models, (config->n_models + 1) * sizeof(*models));
        if (models)
                config->models = models;
        if (!copy || !where || !models)
                return -ENOMEM;
        *ret = &models[config->n_models++];
        **ret = (struct config_model) { .name = steal_ptr(copy), .source = steal_ptr(where) };
        return 0;
}

void config_model_set_default(struct config *config, struct config_model *model) {
        for (size_t i = 0; i < config->n_models; i++)
                config->models[i].is_default = &config->models[i] == model;
}

const struct config_model *config_default_model(const struct config *config) {
        for (size_t i = 0; i < config->n_models; i++)
                if (config->models[i].is_default)
                        return &config->models[i];
        return NULL;
}

static int path_make_absolute(const char *path, char **ret) {
        _cleanup_(freep) char *folder = NULL;

        if (path[0] == '/')
                *ret = strdup(path);
        else if (!(folder = getcwd(NULL, 0)))
                return -errno;
        else if (asprintf(ret, "%s/%s", folder, path) < 0)
                *ret = NULL;
        return *ret ? 0 : -ENOMEM;
}

int config_add_model(struct config *config, const char *name, const char *file, struct reason *reason) {
        _cleanup_(freep) char *path = NULL;
        struct config_model *model;
        int r;

        r = config_model_name_check(name, reason);
        if (r)
                return r;
        if (!*file)
                return reason_return(reason, CONFIG_E_INVALID, "the model '%s' lacks the path of its file", name);
        r = path_make_absolute(file, &path);
        if (r == 0)
                r = config_model_get(config, name, "--model", &model);
        if (r == CONFIG_E_INVALID)
                reason_set(reason, "more than %d models", CONFIG_MODELS_MAX);
        if (r)
                return r;
        free(model->file);
        model->file = steal_ptr(path);
        if (!config_default_model(config))
                model->is_default = true;
        return 0;
}

/* Anything but a plain file is refused: a FIFO or a device would never end. A link to /dev/null is the usual way to
 * mask a file of another folder. */
static int file_open(const char *path, int *ret, struct config_report *report) {
        _cleanup_(closep) int fd = -1;
        struct stat st;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0) {
                config_report_add(report, true, "%s: cannot be read: %s", path, strerror(errno));
                return CONFIG_E_INVALID;
        }
        if (!S_ISREG(st.st_mode) && !(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))) {
                config_report_add(report, true, "%s: is not a plain file", path);
                return CONFIG_E_INVALID;
        }
        *ret = steal_fd(&fd);
        return 0;
}

/* Up to one byte more than is allowed, so that a longer file shows. */
static int file_read(int fd, const char *path, char *buffer, size_t *ret, struct config_report *report) {
        size_t length = 0;

        while (length <= CONFIG_FILE_MAX) {
                ssize_t n = read(fd, buffer + length, CONFIG_FILE_MAX + 1 - length);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        config_report_add(report, true, "%s: cannot be read: %s", path, strerror(errno));
                        return CONFIG_E_INVALID;
                }
                if (n == 0) {
                        *ret = length;
                        return 0;
                }
                length += (size_t) n;
        }
        config_report_add(report, true, "%s: is larger than %d KiB", path, CONFIG_FILE_MAX / 1024);
        return CONFIG_E_INVALID;
}

/* What is wrong with the file goes to the report; only trouble of our own is returned. */
static int load_file(struct config *config, const char *path, bool saved, struct config_report *report) {
        _cleanup_(freep) char *buffer = NULL;
        _cleanup_(closep) int fd = -1;
        size_t length;

        if (file_open(path, &fd, report))
                return 0;
        buffer = malloc(CONFIG_FILE_MAX + 1);
        if (!buffer)
                return -ENOMEM;
        if (file_read(fd, path, buffer, &length, report))
                return 0;
        return saved ? config_parse_saved(config, path, buffer, length, report)
                     : config_parse(config, path, buffer, length, report);
}

struct dropin {
        char *name, *path;
};

struct dropins {
        struct dropin items[DROPINS_MAX];
        size_t n;
};

static void dropins_freep(struct dropins **dropins) {
        for (size_t i = 0; *dropins && i < (*dropins)->n; i++) {
                free((*dropins)->items[i].name);
                free((*dropins)->items[i].path);
        }
        free(*dropins);
}

static bool dropin_wanted(const struct dropins *dropins, const char *name) {
        size_t length = strlen(name);

        if (name[0] == '.' || length <= 5 || strcmp(name + length - 5, ".conf") != 0)
                return false;
        for (size_t i = 0; i < dropins->n; i++)
                if (strcmp(dropins->items[i].name, name) == 0)
                        return false;
        return true;
}

static int dropin_add(struct dropins *dropins, const char *folder, const char *name, struct config_report *report) {
        struct dropin *item = &dropins->items[dropins->n];

        if (dropins->n == DROPINS_MAX) {
                config_report_add(report, true, "%s/%s: more than %d drop-ins", folder, name, DROPINS_MAX);
                return 0;
        }
        *item = (struct dropin) { .name = strdup(name) };
        if (!item->name)
                return -ENOMEM;
        dropins->n++;
        if (asprintf(&item->path, "%s/%s", folder, name) < 0) {
                item->path = NULL;
                return -ENOMEM;
        }
        return 0;
}

static int dropins_scan(struct dropins *dropins, const char *folder, struct config_report *report) {
        DIR *dir = opendir(folder);
        int r = 0;

        if (!dir) {
                if (errno != ENOENT && errno != ENOTDIR)
                        config_report_add(report, true, "%s: cannot be read: %s", folder, strerror(errno));
                return 0;
        }
        for (struct dirent *entry; r == 0 && (entry = readdir(dir));)
                if (dropin_wanted(dropins, entry->d_name))
                        r = dropin_add(dropins, folder, entry->d_name, report);
        closedir(dir);
        return r;
}

static int dropin_compare(const void *a, const void *b) {
        return strcmp(((const struct dropin *) a)->name, ((const struct dropin *) b)->name);
}

/* The main file's candidates, best first, each with its folder of drop-ins at path.d. */
struct places {
        char *paths[FOLDERS_MAX];
        size_t n;
        bool given; /* on the command line: must exist */
};

static void places_deinit(struct places *places) {
        for (size_t i = 0; i < places->n; i++)
                free(places->paths[i]);
}

static int places_add(struct places *places, const char *folder, const char *below) {
        if (asprintf(&places->paths[places->n], "%s%s", folder, below) < 0)
                return -ENOMEM;
        places->n++;
        return 0;
}

static int places_init(struct places *places, const char *path, enum config_scope scope) {
        static const char *const folders[] = { "/etc", "/run", "/usr/lib" };
        const char *config_home = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
        int r = 0;

        places->given = path != NULL;
        if (path)
                return places_add(places, path, "");
        if (scope == CONFIG_USER && config_home && config_home[0] == '/')
                return places_add(places, config_home, "/moed/moed.conf");
        if (scope == CONFIG_USER)
                return home && home[0] == '/' ? places_add(places, home, "/.config/moed/moed.conf") : 0;
        for (size_t i = 0; i < ELEMENTS(folders) && r == 0; i++)
                r = places_add(places, folders[i], "/moed/moed.conf");
        return r;
}

/* A file that is there but may not be looked at counts: to pass over it would drop its limits without a word. */
static bool place_exists(const char *path) {
        return access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static int load_main(struct config *config, const struct places *places, struct config_report *report) {
        for (size_t i = 0; i < places->n; i++)
                if (places->given || place_exists(places->paths[i])) {
                        config->source = strdup(places->paths[i]);
                        return config->source ? load_file(config, places->paths[i], false, report) : -ENOMEM;
                }
        return 0;
}

static int load_dropins(struct config *config, const struct places *places, struct config_report *report) {
        _cleanup_(dropins_freep) struct dropins *dropins = calloc(1, sizeof(*dropins));
        char folder[PATH_MAX + 2];
        int r = 0;

        if (!dropins)
                return -ENOMEM;
        for (size_t i = 0; i < places->n && r == 0; i++)
                if (snprintf(folder, sizeof(folder), "%s.d", places->paths[i]) < (int) sizeof(folder))
                        r = dropins_scan(dropins, folder, report);
        if (r)
                return r;
        qsort(dropins->items, dropins->n, sizeof(dropins->items[0]), dropin_compare);
        for (size_t i = 0; i < dropins->n && r == 0; i++)
                r = load_file(config, dropins->items[i].path, false, report);
        return r;
}

static const char *absolute(const char *path) {
        return path && path[0] == '/' ? path : NULL;
}

/* NULL in *ret: a user without a home. */
static int find_saved(const char *path, enum config_scope scope, char **ret) {
        const char *state = absolute(getenv("STATE_DIRECTORY")), *home = absolute(getenv("HOME")),
                   *state_home = absolute(getenv("XDG_STATE_HOME"));
        int r = 0;

        *ret = NULL;
        if (state) /* of several, which a colon parts, the first */
                r = asprintf(ret, "%.*s/budget.conf", (int) strcspn(state, ":"), state);
        else if (path)
                r = asprintf(ret, "%s.saved", path);
        else if (scope == CONFIG_SYSTEM)
                r = asprintf(ret, "/var/lib/moed/budget.conf");
        else if (state_home)
                r = asprintf(ret, "%s/moed/budget.conf", state_home);
        else if (home)
                r = asprintf(ret, "%s/.local/state/moed/budget.conf", home);
        if (r >= 0)
                return 0;
        *ret = NULL;
        return -ENOMEM;
}

static int load_saved(struct config *config, const char *path, enum config_scope scope, struct config_report *report) {
        int r = find_saved(path, scope, &config->saved_path);

        if (r < 0 || !config->saved_path || !place_exists(config->saved_path))
                return r;
        return load_file(config, config->saved_path, true, report);
}

static gid_t admin_group(void) {
        struct policy_principal group;

        return policy_principal_parse(&group, "gid:" CONFIG_ADMIN_GROUP, NULL) == 0 ? group.id : (gid_t) -1;
}

int config_load(struct config **ret, const char *path, enum config_scope scope, struct config_report *report) {
        _cleanup_(config_freep) struct config *config = NULL;
        _cleanup_(places_deinit) struct places places = { .n = 0 };
        int r;

        r = config_new(&config);
        if (r == 0)
                r = places_init(&places, path, scope);
        if (r == 0)
                r = load_main(config, &places, report);
        if (r == 0)
                r = load_dropins(config, &places, report);
        if (r == 0)
                r = load_saved(config, path, scope, report);
        if (r)
                return r;
        config->admin_gid = admin_group();
        config_parse_finish(config, report);
        if (report->n_errors > 0)
                return CONFIG_E_INVALID;
        *ret = steal_ptr(config);
        return 0;
}
