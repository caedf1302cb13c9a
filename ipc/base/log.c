/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/log.h"
#include "base/util.h"

#if HAVE_SYSTEMD
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>
#endif

static struct {
        const char *identifier;
        int level;
        bool journal;
} log_state = { .identifier = "moed", .level = LOG_INFO };

/* systemd sets JOURNAL_STREAM to the device and inode of the stream it connected (systemd.exec(5)); stderr may
 * have been redirected since, so the numbers are compared. */
static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long dev, ino;
        struct stat st;

        if (!stream || sscanf(stream, "%llu:%llu", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) < 0)
                return false;
        return st.st_dev == dev && st.st_ino == ino;
}

void log_init(const char *identifier, int level) {
        log_state.identifier = identifier;
        log_state.level = level;
        log_state.journal = stderr_is_journal();
}

void log_set_level(int level) {
        log_state.level = level;
}

int log_level(void) {
        return log_state.level;
}

#if HAVE_SYSTEMD
enum { LOG_FIELDS_MAX = 12 };

/* Splits "KEY=value\nKEY=value" in place and hands all to the journal in one entry. */
static void log_to_journal(int level, const char *message, char *fields) {
        char head[3][1152];
        struct iovec iov[LOG_FIELDS_MAX + 3];
        int n = 3;

        snprintf(head[0], sizeof(head[0]), "MESSAGE=%s", message);
        snprintf(head[1], sizeof(head[1]), "PRIORITY=%d", level);
        snprintf(head[2], sizeof(head[2]), "SYSLOG_IDENTIFIER=%s", log_state.identifier);
        for (int i = 0; i < 3; i++)
                iov[i] = (struct iovec) { head[i], strlen(head[i]) };
        for (char *save, *field = strtok_r(fields, "\n", &save); field && n < (int) ELEMENTS(iov);
             field = strtok_r(NULL, "\n", &save))
                iov[n++] = (struct iovec) { field, strlen(field) };
        sd_journal_sendv(iov, n);
}
#endif

static void log_to_stderr(int level, const char *message, char *fields) {
        static const char *const names[] = { "emerg", "alert", "crit", "error", "warning", "notice", "info", "debug" };

        for (char *c = fields; *c; c++)
                if (*c == '\n')
                        *c = ' ';
        /* One call, one write: lines of several threads do not mix. */
        fprintf(stderr, "%s: %s: %s%s%s\n", log_state.identifier, names[level & 7], message, *fields ? " " : "",
                fields);
}

void log_line(int level, const char *fields, const char *format, ...) {
        char message[1024], extra[1024] = "";
        int saved = errno;
        va_list args;

        if (level > log_state.level)
                return;
        if (fields)
                snprintf(extra, sizeof(extra), "%s", fields);
        va_start(args, format);
        vsnprintf(message, sizeof(message), format, args);
        va_end(args);
        for (char *c = message; *c; c++)
                if (*c == '\n')
                        *c = ' ';
#if HAVE_SYSTEMD
        if (log_state.journal)
                log_to_journal(level, message, extra);
        else
#endif
                log_to_stderr(level, message, extra);
        errno = saved;
}
