/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "base/util.h"
#include "cli.h"
#include "doctor.h"
#include "json.h"
#include "table.h"
#if HAVE_NCURSES
#include "terminal.h"
#endif

static const char *const health_names[] = { "ok", "note", "missing" };

void find(struct finding *ret, enum health health, const char *remedy, const char *format, ...) {
        va_list args;

        ret->health = health;
        va_start(args, format);
        vsnprintf(ret->value, sizeof(ret->value), format, args);
        va_end(args);
        snprintf(ret->remedy, sizeof(ret->remedy), "%s", health == HEALTH_OK ? "" : remedy);
}

/* The first line of a small file; false when it cannot be read. */
static bool read_line_of(const char *path, char *ret, size_t size) {
        _cleanup_(fclosep) FILE *f = fopen(path, "re");

        if (!f || !fgets(ret, (int) size, f))
                return false;
        ret[strcspn(ret, "\n")] = 0;
        return true;
}

static void check_kernel(struct finding *ret, const struct cli *cli) {
        unsigned major = 0, minor = 0;
        struct utsname name;

        if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
                return find(ret, HEALTH_NOTE, "The daemon needs Linux 6.1 or later.", "unknown");
        find(ret, major > 6 || (major == 6 && minor >= 1) ? HEALTH_OK : HEALTH_BAD,
             "The daemon needs Linux 6.1 or later, which Debian 12 has: boot a newer kernel.", "Linux %s",
             name.release);
}

/* Asked of the kernel itself, with an address that it cannot read: EFAULT comes after the question of
 * permission, and a container's filter answers before it. */
static void check_io_uring(struct finding *ret, const struct cli *cli) {
        char line[16];

        if (syscall(SYS_io_uring_setup, 1, NULL) < 0 && (errno == EFAULT || errno == EINVAL))
                return find(ret, HEALTH_OK, "", "allowed");
        if (read_line_of("/proc/sys/kernel/io_uring_disabled", line, sizeof(line)) && strcmp(line, "0") != 0)
                return find(ret, HEALTH_BAD,
                            "The daemon needs io_uring: 'sysctl kernel.io_uring_disabled=0', and a file in "
                            "/etc/sysctl.d to keep it.",
                            "kernel.io_uring_disabled=%s", line);
        find(ret, HEALTH_BAD,
             "The daemon needs io_uring: a container's seccomp filter keeps it away here. Run the daemon "
             "outside and pass its socket in; clients need none.",
             "refused: %s", strerror(errno));
}

static void check_nofile(struct finding *ret, const struct cli *cli) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return find(ret, HEALTH_NOTE, "", "unknown");
        if (limit.rlim_max == RLIM_INFINITY)
                return find(ret, HEALTH_OK, "", "unlimited");
        find(ret, limit.rlim_max >= 4096 ? HEALTH_OK : HEALTH_NOTE,
             "The daemon holds seven descriptors for each connection: raise 'ulimit -Hn', or LimitNOFILE= of "
             "its unit.",
             "%" PRIu64 " descriptors", (uint64_t) limit.rlim_max);
}

static void check_memlock(struct finding *ret, const struct cli *cli) {
        struct rlimit limit;
        char bytes[16];

        if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
                return find(ret, HEALTH_NOTE, "", "unknown");
        if (limit.rlim_cur == RLIM_INFINITY)
                return find(ret, HEALTH_OK, "", "unlimited");
        find(ret, limit.rlim_cur >= 1024 * 1024 || geteuid() == 0 ? HEALTH_OK : HEALTH_NOTE,
             "Pinned buffers of a GPU need more: raise 'ulimit -l', or LimitMEMLOCK= of the unit.", "%s",
             format_bytes(bytes, limit.rlim_cur));
}

static void check_memory(struct finding *ret, const struct cli *cli) {
        _cleanup_(fclosep) FILE *f = fopen("/proc/meminfo", "re");
        uint64_t total = 0, available = 0;
        char line[128], a[16], b[16];

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "MemTotal: %" SCNu64, &total) != 1)
                        sscanf(line, "MemAvailable: %" SCNu64, &available);
        find(ret, available >= 1024 * 1024 ? HEALTH_OK : HEALTH_NOTE,
             "A model's file, and 1 GiB beside it, should fit what is available; else weights are read from "
             "the disk again and again.",
             "%s available of %s", format_bytes(a, available * 1024), format_bytes(b, total * 1024));
}

static void check_huge_pages(struct finding *ret, const struct cli *cli) {
        char line[64], *from, *to;

        if (!read_line_of("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line)))
                return find(ret, HEALTH_NOTE,
                            "This kernel has no transparent huge pages: prompts are read a little slower.",
                            "not there");
        from = strchr(line, '[');
        to = from ? strchr(from, ']') : NULL;
        if (!to)
                return find(ret, HEALTH_NOTE, "", "%s", line);
        *to = 0;
        find(ret, strcmp(from + 1, "never") == 0 ? HEALTH_NOTE : HEALTH_OK,
             "'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled' lets moed ask for them.", "%s",
             from + 1);
}

static void check_processor(struct finding *ret, const struct cli *cli) {
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"))
                return find(ret, HEALTH_OK, "", "AVX-512 with VNNI, %ld processors",
                            sysconf(_SC_NPROCESSORS_ONLN));
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
                return find(ret, HEALTH_OK, "", "AVX2, %ld processors", sysconf(_SC_NPROCESSORS_ONLN));
        find(ret, HEALTH_NOTE,
             "Without AVX2 the plain C kernels are used, several times slower. In a virtual machine, pass "
             "the host's processor through.",
             "neither AVX2 nor AVX-512");
#elif defined(__aarch64__)
        if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
                return find(ret, HEALTH_OK, "", "NEON with dot products, %ld processors",
                            sysconf(_SC_NPROCESSORS_ONLN));
        find(ret, HEALTH_NOTE, "Without them the plain C kernels are used, several times slower.",
             "no dot products");
#else
        find(ret, HEALTH_NOTE, "There are vectorised kernels for x86-64 and aarch64 only; plain C is used here.",
             "neither x86-64 nor aarch64");
#endif
}

static bool exists(const char *path) {
        struct stat st;

        return stat(path, &st) == 0;
}

static void check_gpu(struct finding *ret, const struct cli *cli) {
        char line[128];

        if (exists("/dev/nvidia0") && exists("/dev/nvidiactl")) {
                if (!read_line_of("/proc/driver/nvidia/version", line, sizeof(line)))
                        snprintf(line, sizeof(line), "NVIDIA");
                return find(ret, access("/dev/nvidia0", R_OK | W_OK) == 0 ? HEALTH_OK : HEALTH_NOTE,
                            "This user may not open /dev/nvidia0; the daemon's user has to (groups video, "
                            "render).",
                            "%s", line);
        }
        if (exists("/proc/driver/nvidia"))
                return find(ret, HEALTH_NOTE,
                            "The driver is loaded but has no device node: run nvidia-modprobe.",
                            "driver without a device");
        find(ret, HEALTH_OK, "", "none; the processor computes");
}

static void check_daemon(struct finding *ret, const struct cli *cli) {
        struct moed_options options = MOED_OPTIONS_INIT;
        const struct moed_model *models;
        struct moed *m;
        int r;

        options.socket = cli->socket;
        r = moed_connect(&m, &options);
        if (r < 0) {
                find(ret, HEALTH_BAD, moed_error(m), "%s",
                     r == -EACCES || r == -EPERM ? "not allowed" : "not reachable");
                moed_close(m);
                return;
        }
        r = moed_models(m, &models);
        if (r > 0)
                find(ret, HEALTH_OK, "", "answers; %d model%s, default %s", r, r == 1 ? "" : "s",
                     models[0].name);
        else
                find(ret, r == 0 ? HEALTH_BAD : HEALTH_NOTE,
                     r == 0 ? "It serves no model: add a [Model NAME] section with File= to moed.conf(5)."
                            : moed_error(m),
                     "answers");
        moed_close(m);
}

/* For `moectl top`. */
static void check_terminal(struct finding *ret, const struct cli *cli) {
#if HAVE_NCURSES
        const char *term = getenv("TERM");

        if (!term || !isatty(STDOUT_FILENO))
                return find(ret, HEALTH_OK, "", "none here");
        find(ret, terminal_can_draw() ? HEALTH_OK : HEALTH_NOTE,
             "'moectl top' cannot draw on it and prints, with --batch; descriptions of more terminals are in the "
             "package ncurses-term.",
             "%s", term);
#else
        find(ret, HEALTH_NOTE, "'moectl top' only prints, with --batch: build moed where libncurses-dev is installed.",
             "moectl was built without ncurses");
#endif
}

static const struct check {
        const char *name;
        void (*run)(struct finding *ret, const struct cli *cli);
} checks[] = {
        { "kernel", check_kernel },
        { "io_uring", check_io_uring },
        { "open files", check_nofile },
        { "locked memory", check_memlock },
        { "memory", check_memory },
        { "huge pages", check_huge_pages },
        { "processor", check_processor },
        { "GPU", check_gpu },
        { "terminal", check_terminal },
        { "daemon", check_daemon },
};

static void json_findings(struct json_writer *w, const struct finding *findings, size_t n) {
        json_key(w, "checks");
        json_open(w, '[');
        for (size_t i = 0; i < n; i++) {
                json_open(w, '{');
                json_key(w, "name");
                json_text(w, findings[i].name);
                json_key(w, "status");
                json_text(w, health_names[findings[i].health]);
                json_key(w, "value");
                json_text(w, findings[i].value);
                json_key(w, "remedy");
                json_text(w, findings[i].remedy);
                json_close(w, '}');
        }
        json_close(w, ']');
}

static void print_json(const struct finding *findings, size_t n, bool healthy, const struct json *inspection) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;

        json_open(&w, '{');
        json_key(&w, "healthy");
        json_bool(&w, healthy);
        json_findings(&w, findings, n);
        if (inspection)
                forecast_json(&w, inspection);
        json_close(&w, '}');
        puts(w.error < 0 ? "{}" : w.data);
}

static void print_table(const struct finding *findings, size_t n) {
        for (size_t i = 0; i < n; i++) {
                printf("%-8s %-14s %s\n", health_names[findings[i].health], findings[i].name,
                       findings[i].value);
                if (findings[i].remedy[0])
                        printf("         %s\n", findings[i].remedy);
        }
}

int verb_doctor(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        struct finding findings[ELEMENTS(checks) + FORECAST_FINDINGS] = {};
        _cleanup_(json_freep) struct json *inspection = NULL;
        size_t n_findings = ELEMENTS(checks);
        bool healthy = true;
        int n, code;

        code = cli_parse(cli, verb, NULL, argc, argv, &n);
        if (code == CLI_DONE && n > 1)
                code = cli_usage(verb, "'%s' is more than this takes", argv[1]);
        if (code != CLI_DONE)
                return code;
        if (n > 0) {
                code = forecast_ask(cli, argv[0], &inspection);
                if (code)
                        return code;
                n_findings += forecast_find(findings + ELEMENTS(checks), inspection);
        }
        for (size_t i = 0; i < ELEMENTS(checks); i++) {
                findings[i].name = checks[i].name;
                checks[i].run(&findings[i], cli);
        }
        for (size_t i = 0; i < n_findings; i++)
                healthy = healthy && findings[i].health != HEALTH_BAD;
        if (cli->json)
                print_json(findings, n_findings, healthy, inspection);
        else
                print_table(findings, n_findings);
        code = cli_flush();
        return code ? code : healthy ? 0 : 1;
}
