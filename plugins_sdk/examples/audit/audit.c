/*
 * Counts every statement by what it was, and writes a line about those that matter: what changed
 * something, and what failed. Constants do not get into the log: it has the normalized text.
 */
#include "../../c/headgate.h"

enum { LOG_NONE, LOG_ERRORS, LOG_WRITES, LOG_ALL };

static int what_to_log = LOG_WRITES;

#define MAX_TEXT 1024 /* of a statement, in a line */

HG_EXPORT("plugin_init") hg_answer plugin_init(const char *at, hg_size size) {
  hg_text value = hg_member((hg_text){at, size}, "log");
  what_to_log = LOG_WRITES;
  if (value.at == 0 || hg_says(value, HG_LITERAL("writes"))) return HG_DEFAULT;
  if (hg_says(value, HG_LITERAL("none"))) {
    what_to_log = LOG_NONE;
  } else if (hg_says(value, HG_LITERAL("errors"))) {
    what_to_log = LOG_ERRORS;
  } else if (hg_says(value, HG_LITERAL("all"))) {
    what_to_log = LOG_ALL;
  } else {
    return HG_CONSTANT(
        "{\"action\":\"block\",\"value\":\"config: log is not known; expected none, errors, writes or all\"}");
  }
  return HG_DEFAULT;
}

/* statements_<kind>_total, for the kinds that are names of metrics */
static void count_kind(hg_text kind) {
  hg_writer name = hg_write();
  hg_put(&name, HG_LITERAL("statements_"));
  hg_put(&name, kind);
  hg_put(&name, HG_LITERAL("_total"));
  hg_count(hg_written(&name), 1);
}

/* One line: what is no printable character is a space. */
static void put_printable(hg_writer *line, hg_text text) {
  for (hg_size i = 0; i < text.size; i++) {
    hg_byte c = (hg_byte)text.at[i];
    hg_put_char(line, c < 0x20 || c == 0x7f ? ' ' : (char)c);
  }
}

static void put_field(hg_writer *line, hg_text name, hg_text value) {
  if (value.size == 0) return;
  hg_put_char(line, ' ');
  hg_put(line, name);
  hg_put_char(line, '=');
  put_printable(line, value);
}

/* At most so many bytes, and no character of UTF-8 in half. */
static hg_text shortened(hg_text text, hg_size size) {
  if (text.size <= size) return text;
  while (size > 0 && ((hg_byte)text.at[size] & 0xc0) == 0x80) size--;
  return (hg_text){text.at, size};
}

static double number_of(hg_text json) {
  double value = 0;
  for (hg_size i = 0; i < json.size && json.at[i] >= '0' && json.at[i] <= '9'; i++)
    value = value * 10 + (json.at[i] - '0');
  return value;
}

HG_EXPORT("post_query") void post_query(const char *at, hg_size size) {
  hg_begin();
  hg_text pair = {at, size}, envelope = {0, 0}, outcome = {0, 0};
  const char *step = 0;
  if (!hg_next(pair, &step, &envelope) || !hg_next(pair, &step, &outcome)) return;

  hg_text kind = hg_string(hg_member(envelope, "kind"));
  int failed = !hg_is_true(hg_member(outcome, "success"));
  hg_count(HG_LITERAL("statements_total"), 1);
  if (kind.size > 0 && kind.size < 32) count_kind(kind);
  if (failed) hg_count(HG_LITERAL("errors_total"), 1);
  hg_count(HG_LITERAL("rows_total"), number_of(hg_member(outcome, "rows")));

  int is_write = !hg_is_true(hg_member(envelope, "is_read_only"));
  if (what_to_log == LOG_NONE || (what_to_log == LOG_ERRORS && !failed) ||
      (what_to_log == LOG_WRITES && !failed && !is_write))
    return;
  hg_text context = hg_member(envelope, "hook_context");
  hg_writer line = hg_write();
  put_printable(&line, kind);
  put_field(&line, HG_LITERAL("user"), hg_string(hg_member(context, "identity")));
  put_field(&line, HG_LITERAL("database"), hg_string(hg_member(context, "database")));
  put_field(&line, HG_LITERAL("addr"), hg_attribute(envelope, "client_addr"));
  put_field(&line, HG_LITERAL("request"), hg_string(hg_member(context, "request_id")));
  put_field(&line, HG_LITERAL("node"), hg_string(hg_member(outcome, "target_node")));
  put_field(&line, HG_LITERAL("rows"), hg_member(outcome, "rows"));
  put_field(&line, HG_LITERAL("elapsed_us"), hg_member(outcome, "elapsed_us"));
  put_field(&line, HG_LITERAL("sqlstate"), hg_string(hg_member(outcome, "sqlstate")));
  put_field(&line, HG_LITERAL("sql"),
            shortened(hg_string(hg_member(envelope, "normalized")), MAX_TEXT));
  hg_log(failed ? HG_WARN : HG_INFO, hg_written(&line));
}
