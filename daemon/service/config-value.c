/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

#include "base/util.h"
#include "config-value.h"

/* Takes digits off *text; false when there are none or they do not fit. */
static bool take_digits(const char **text, uint64_t *ret) {
        const char *c = *text;
        uint64_t n = 0;

        for (; *c >= '0' && *c <= '9'; c++)
                if (!mul_u64(n, 10, &n) || !add_u64(n, (uint64_t) (*c - '0'), &n))
                        return false;
        if (c == *text)
                return false;
        *text = c;
        *ret = n;
        return true;
}

static const char *skip_spaces(const char *text) {
        return text + strspn(text, " \t");
}

int config_value_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret, struct reason *reason) {
        uint64_t n;

        if (!take_digits(&text, &n) || *text || n < min || n > max)
                return reason_return(reason, CONFIG_VALUE_E_INVALID, "%" PRIu64 " to %" PRIu64 " is allowed", min, max);
        *ret = n;
        return 0;
}

static const char size_letters[] = "KMGT";

void config_format_size(uint64_t bytes, char *ret, size_t size) {
        int i = -1;

        while (bytes >= 1024 && bytes % 1024 == 0 && i < 3) {
                bytes /= 1024;
                i++;
        }
        snprintf(ret, size, "%" PRIu64 "%.1s", bytes, i < 0 ? "" : size_letters + i);
}

static bool parse_size(const char *text, uint64_t *ret) {
        const char *letter;
        uint64_t n;

        if (!take_digits(&text, &n))
                return false;
        if (*text) {
                letter = strchr(size_letters, *text);
                if (!letter || text[1] || !mul_u64(n, UINT64_C(1) << (10 * (letter - size_letters + 1)), &n))
                        return false;
        }
        *ret = n;
        return true;
}

int config_value_size(const char *text, uint64_t min, uint64_t max, uint64_t *ret, struct reason *reason) {
        char low[32], high[32];
        uint64_t n;

        if (!parse_size(text, &n) || n < min || n > max) {
                config_format_size(min, low, sizeof(low));
                config_format_size(max, high, sizeof(high));
                return reason_return(reason, CONFIG_VALUE_E_INVALID,
                                     "a number of bytes from %s to %s is allowed, with K, M, G or T behind it for "
                                     "powers of 1024",
                                     low, high);
        }
        *ret = n;
        return 0;
}

static const struct span_unit {
        const char *name;
        uint64_t nsec;
} span_units[] = {
        { "us", NSEC_PER_USEC },      { "usec", NSEC_PER_USEC },     { "ms", NSEC_PER_MSEC },
        { "msec", NSEC_PER_MSEC },    { "s", NSEC_PER_SEC },         { "sec", NSEC_PER_SEC },
        { "min", 60 * NSEC_PER_SEC }, { "h", 3600 * NSEC_PER_SEC },
};

static uint64_t take_span_unit(const char **text, uint64_t otherwise) {
        size_t length = strspn(*text, "abcdefghijklmnopqrstuvwxyz");

        if (length == 0)
                return otherwise;
        for (size_t i = 0; i < ELEMENTS(span_units); i++)
                if (strlen(span_units[i].name) == length && strncmp(span_units[i].name, *text, length) == 0) {
                        *text += length;
                        return span_units[i].nsec;
                }
        return 0;
}

static bool parse_span(const char *text, uint64_t unit, uint64_t *ret) {
        uint64_t sum = 0, n, nsec;

        do {
                if (!take_digits(&text, &n))
                        return false;
                text = skip_spaces(text);
                nsec = take_span_unit(&text, unit);
                if (nsec == 0 || !mul_u64(n, nsec, &n) || !add_u64(sum, n, &sum))
                        return false;
                text = skip_spaces(text);
        } while (*text);
        *ret = sum;
        return true;
}

void config_format_span(uint64_t nsec, char *ret, size_t size) {
        if (nsec % NSEC_PER_SEC == 0)
                snprintf(ret, size, "%" PRIu64 "s", nsec / NSEC_PER_SEC);
        else if (nsec % NSEC_PER_MSEC == 0)
                snprintf(ret, size, "%" PRIu64 "ms", nsec / NSEC_PER_MSEC);
        else
                snprintf(ret, size, "%" PRIu64 "us", nsec / NSEC_PER_USEC);
}

static const char *span_unit_name(uint64_t nsec) {
        return nsec == NSEC_PER_SEC ? "s" : nsec == NSEC_PER_MSEC ? "ms" : "us";
}

int config_value_span(const char *text, uint64_t unit, uint64_t min, uint64_t max, uint64_t *ret,
                      struct reason *reason) {
        char low[32], high[32];
        uint64_t n;

        if (!parse_span(text, unit, &n) || n < min || n > max) {
                config_format_span(min, low, sizeof(low));
                config_format_span(max, high, sizeof(high));
                return reason_return(reason, CONFIG_VALUE_E_INVALID,
                                     "%s to %s is allowed, in us, ms, s, min or h; a number alone is in %s", low, high,
                                     span_unit_name(unit));
        }
        *ret = n;
        return 0;
}

int config_value_bool(const char *text, bool *ret, struct reason *reason) {
        static const char *const words[][2] = {
                { "yes", "no" }, { "true", "false" }, { "on", "off" }, { "1", "0" },
        };

        for (size_t i = 0; i < ELEMENTS(words); i++)
                for (int no = 0; no < 2; no++)
                        if (strcasecmp(text, words[i][no]) == 0) {
                                *ret = !no;
                                return 0;
                        }
        return reason_return(reason, CONFIG_VALUE_E_INVALID, "yes or no is allowed");
}

int config_value_mode(const char *text, mode_t *ret, struct reason *reason) {
        size_t length = strlen(text);
        mode_t mode = 0;

        if (length < 3 || length > 4 || strspn(text, "01234567") != length || (length == 4 && text[0] != '0'))
                return reason_return(reason, CONFIG_VALUE_E_INVALID, "octal permissions are allowed, 0000 to 0777");
        for (; *text; text++)
                mode = mode * 8 + (mode_t) (*text - '0');
        *ret = mode;
        return 0;
}

int config_value_log_level(const char *text, int *ret, struct reason *reason) {
        static const struct {
                const char *name;
                int level;
        } levels[] = {
                { "err", LOG_ERR },       { "error", LOG_ERR },   { "warning", LOG_WARNING },
                { "notice", LOG_NOTICE }, { "info", LOG_INFO },   { "debug", LOG_DEBUG },
        };

        for (size_t i = 0; i < ELEMENTS(levels); i++)
                if (strcmp(text, levels[i].name) == 0) {
                        *ret = levels[i].level;
                        return 0;
                }
        return reason_return(reason, CONFIG_VALUE_E_INVALID, "err, warning, notice, info or debug is allowed");
}

static bool parse_experts(const char *text, uint64_t *ret) {
        uint64_t whole, milli = 0, place = 100;

        if (!take_digits(&text, &whole))
                return false;
        if (*text == '.') {
                for (text++; *text >= '0' && *text <= '9' && place > 0; text++, place /= 10)
                        milli += (uint64_t) (*text - '0') * place;
                if (place == 100)
                        return false;
        }
        return *text == '\0' && mul_u64(whole, 1000, &whole) && add_u64(whole, milli, ret);
}

int config_value_experts(const char *text, uint64_t max, uint64_t *ret, struct reason *reason) {
        uint64_t milli;

        if (!parse_experts(text, &milli) || milli == 0 || milli > max)
                return reason_return(reason, CONFIG_VALUE_E_INVALID,
                                     "a number above 0 and up to %" PRIu64 ", with up to three decimals, is allowed",
                                     max / 1000);
        *ret = milli;
        return 0;
}

void config_format_experts(uint64_t milli, char *ret, size_t size) {
        if (milli % 1000 == 0)
                snprintf(ret, size, "%" PRIu64, milli / 1000);
        else
                snprintf(ret, size, "%" PRIu64 ".%03" PRIu64, milli / 1000, milli % 1000);
}

int config_value_path(const char *text, size_t max, struct reason *reason) {
        if (text[0] != '/')
                return reason_return(reason, CONFIG_VALUE_E_INVALID, "an absolute path is allowed");
        if (strlen(text) >= max)
                return reason_return(reason, CONFIG_VALUE_E_INVALID, "a path of at most %zu bytes is allowed", max - 1);
        return 0;
}
