/*
 * no-drop: blocks DROP and TRUNCATE, and UPDATE or DELETE without WHERE.
 *
 * Looks at tokens, not at text: a string or a comment that mentions DROP is harmless, a body of DO
 * or CREATE FUNCTION is not, and there strings count too (EXECUTE 'DROP ...'). Text that the proxy's
 * parser does not know is looked at as suspiciously.
 *
 * [config] tables = ["orders"] limits UPDATE, DELETE and TRUNCATE to statements on these tables;
 * DROP is always blocked.
 */
#include "headgate.h"

#define MAX_TABLES 64
#define MAX_DEPTH 64

static char names[4096];
static hg_text tables[MAX_TABLES];
static u32 table_count;

HG_EXPORT(plugin_init) u64 plugin_init(char *input, u32 length) {
  hg_text list = hg_get((hg_text){input, length}, "tables");
  u32 at = 0, used = 0;
  for (;;) {
    hg_text item = hg_next(list, &at);
    if (item.length == 0 || list.length == 0) break;
    hg_text name = hg_string(item);
    if (table_count == MAX_TABLES || used + name.length > sizeof(names))
      return hg_block("no-drop: too many tables in its configuration");
    for (u32 i = 0; i < name.length; i++) names[used + i] = name.data[i];
    tables[table_count++] = (hg_text){names + used, name.length};
    used += name.length;
  }
  return HG_PASS;
}

/* -- tokens -------------------------------------------------------------------------------------- */

enum { END, WORD, STRING, DOLLAR, SYMBOL };

typedef struct {
  const char *s;
  u32 n, i;
  int kind;
  hg_text text; /* of a word, lower case up to 15 bytes in `low`; of a string its inside */
  char low[16];
} scanner;

static int is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80);
}
static int is_digit(char c) { return c >= '0' && c <= '9'; }

static void skip_blank(scanner *p) {
  while (p->i < p->n) {
    char c = p->s[p->i];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v') p->i++;
    else if (c == '-' && p->i + 1 < p->n && p->s[p->i + 1] == '-') {
      while (p->i < p->n && p->s[p->i] != '\n' && p->s[p->i] != '\r') p->i++;
    } else if (c == '/' && p->i + 1 < p->n && p->s[p->i + 1] == '*') {
      u32 depth = 1;
      p->i += 2;
      while (p->i < p->n && depth) {
        if (p->s[p->i] == '*' && p->i + 1 < p->n && p->s[p->i + 1] == '/') { depth--; p->i += 2; }
        else if (p->s[p->i] == '/' && p->i + 1 < p->n && p->s[p->i + 1] == '*') { depth++; p->i += 2; }
        else p->i++;
      }
    } else break;
  }
}

static void quoted(scanner *p, char quote, int escapes) {
  u32 start = ++p->i;
  while (p->i < p->n) {
    char c = p->s[p->i];
    if (escapes && c == '\\') p->i += 2;
    else if (c == quote) {
      if (p->i + 1 < p->n && p->s[p->i + 1] == quote) p->i += 2;
      else break;
    } else p->i++;
  }
  if (p->i > p->n) p->i = p->n;
  p->text = (hg_text){p->s + start, p->i - start};
  p->i++;
}

static int next(scanner *p) {
  skip_blank(p);
  p->low[0] = 0;
  if (p->i >= p->n) return p->kind = END;
  char c = p->s[p->i];
  if (c == '\'') { quoted(p, c, 0); return p->kind = STRING; }
  if (c == '"') {
    quoted(p, c, 0); /* an identifier: never a keyword */
    p->low[0] = '"'; p->low[1] = 0;
    return p->kind = WORD;
  }
  if (c == '$') { /* $tag$ ... $tag$, or a parameter */
    u32 end = p->i + 1;
    while (end < p->n && (is_letter(p->s[end]) || (end > p->i + 1 && is_digit(p->s[end])))) end++;
    if (end < p->n && p->s[end] == '$') {
      u32 size = end + 1 - p->i, start = end + 1, at = start;
      for (; at + size <= p->n; at++) {
        u32 k = 0;
        while (k < size && p->s[at + k] == p->s[p->i + k]) k++;
        if (k == size) break;
      }
      int closed = at + size <= p->n;
      p->text = (hg_text){p->s + start, (closed ? at : p->n) - start};
      p->i = closed ? at + size : p->n;
      return p->kind = DOLLAR;
    }
    p->i++;
    return p->kind = SYMBOL;
  }
  if (is_letter(c)) {
    u32 start = p->i;
    while (p->i < p->n && (is_letter(p->s[p->i]) || is_digit(p->s[p->i]) || p->s[p->i] == '$')) p->i++;
    u32 size = p->i - start;
    p->text = (hg_text){p->s + start, size};
    if (size == 1 && p->i < p->n && p->s[p->i] == '\'' && (c | 32) != 'u') {
      quoted(p, '\'', (c | 32) == 'e'); /* E'..', B'..', X'..', N'..' */
      return p->kind = STRING;
    }
    if (size < sizeof(p->low)) {
      for (u32 k = 0; k < size; k++) {
        char l = p->text.data[k];
        p->low[k] = l >= 'A' && l <= 'Z' ? l | 32 : l;
      }
      p->low[size] = 0;
    }
    return p->kind = WORD;
  }
  if (is_digit(c)) {
    while (p->i < p->n && (is_digit(p->s[p->i]) || p->s[p->i] == '.')) p->i++;
    return p->kind = SYMBOL;
  }
  p->low[0] = c;
  p->low[1] = 0;
  p->i++;
  return p->kind = SYMBOL;
}

static int is(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

/* -- judging --------------------------------------------------------------------------------------- */

enum { FINE, HAS_DROP, HAS_TRUNCATE, HAS_DELETE, HAS_UPDATE };

static int one_of(const char *word, const char *const *list) {
  for (; *list; list++)
    if (is(word, *list)) return 1;
  return 0;
}

/* Behind these, UPDATE or DELETE begins a statement of its own. */
static const char *const openers[] = {"", ";", "(", ")", "as", "analyze", "verbose", "instead",
                                      "also", "not", "materialized", 0};
/* Before UPDATE and DELETE in clauses that change nothing by themselves. */
static const char *const clauses[] = {"for", "key", "on", "do", "or", "of", "before", "after",
                                      "grant", "revoke", ",", "then", "no", "pg", 0};

static int judge(const char *s, u32 n, int suspicious, u32 level);

static int inside(hg_text text, u32 level) {
  return level < 8 ? judge(text.data, text.length, 1, level + 1) : HAS_DROP;
}

static int judge(const char *s, u32 n, int suspicious, u32 level) {
  scanner p = {s, n, 0, 0, {0, 0}, {0}};
  char before[16] = "", first[16] = "";
  int open[MAX_DEPTH]; /* HAS_DELETE or HAS_UPDATE that still lacks its WHERE, by depth */
  u32 depth = 0, words = 0;
  int has_body = suspicious;
  open[0] = FINE;
  for (;;) {
    int kind = next(&p);
    if (kind == END) break;
    if (kind == STRING || kind == DOLLAR) {
      if (has_body) {
        int found = inside(p.text, level);
        if (found != FINE) return found;
      }
      before[0] = '\''; before[1] = 0;
      continue;
    }
    if (kind == SYMBOL) {
      char c = p.low[0];
      if (c == '(') {
        if (depth + 1 >= MAX_DEPTH) return HAS_DROP; /* nobody writes that by hand */
        open[++depth] = FINE;
      } else if (c == ')') {
        if (open[depth] != FINE) return open[depth];
        if (depth) depth--;
      } else if (c == ';') {
        for (u32 d = 0; d <= depth; d++)
          if (open[d] != FINE) return open[d];
        depth = 0;
        open[0] = FINE;
        words = 0;
        has_body = suspicious;
      }
      before[0] = c; before[1] = 0;
      continue;
    }
    words++;
    if (words == 1)
      for (int k = 0; k < 16; k++) first[k] = p.low[k];
    if (is(p.low, "do") && words == 1) has_body = 1;
    if ((is(p.low, "function") || is(p.low, "procedure")) && is(first, "create")) has_body = 1;
    if (is(p.low, "drop") && (words == 1 || suspicious)) return HAS_DROP;
    if (is(p.low, "truncate") && (words == 1 || suspicious)) return HAS_TRUNCATE;
    if (is(p.low, "where")) open[depth] = FINE;
    int is_delete = is(p.low, "delete"), is_update = is(p.low, "update");
    if ((is_delete || is_update) &&
        (one_of(before, openers) || (suspicious && !one_of(before, clauses)))) {
      scanner ahead = p;
      next(&ahead);
      if (is_delete ? is(ahead.low, "from") : ahead.kind == WORD && !is(ahead.low, "of")) {
        if (open[depth] != FINE) return open[depth];
        open[depth] = is_delete ? HAS_DELETE : HAS_UPDATE;
      }
    }
    for (int k = 0; k < 16; k++) before[k] = p.low[k];
    if (!before[0]) before[0] = 'w', before[1] = 0;
  }
  for (u32 d = 0; d <= depth; d++)
    if (open[d] != FINE) return open[d];
  return FINE;
}

static int concerns(hg_text envelope, hg_text kind) {
  if (table_count == 0 || hg_is(kind, "unknown") || hg_is(kind, "do") || hg_is(kind, "ddl")) return 1;
  hg_text list = hg_get(envelope, "tables");
  u32 at = 0, seen = 0;
  for (;;) {
    hg_text item = hg_next(list, &at);
    if (item.length == 0) break;
    seen = 1;
    hg_text name = hg_string(item), last = name;
    for (u32 i = 0; i < name.length; i++)
      if (name.data[i] == '.') last = (hg_text){name.data + i + 1, name.length - i - 1};
    for (u32 t = 0; t < table_count; t++)
      if (hg_same(last, tables[t]) || hg_same(name, tables[t])) return 1;
  }
  return !seen;
}

HG_EXPORT(pre_query) u64 pre_query(char *input, u32 length) {
  hg_text envelope = {input, length};
  hg_text kind = hg_string(hg_get(envelope, "kind"));
  if (hg_is(kind, "function_call")) return HG_PASS;
  hg_text query = hg_get(envelope, "query");
  /* Decoding comes last for the query, because it is in place and `concerns` reads the rest. */
  hg_text tables_json = hg_get(envelope, "tables");
  (void)tables_json;
  int matters = concerns(envelope, kind);
  hg_text sql = hg_string(query);
  switch (judge(sql.data, sql.length, hg_is(kind, "unknown"), 0)) {
    case HAS_DROP: return hg_block("DROP is not allowed");
    case HAS_TRUNCATE: return matters ? hg_block("TRUNCATE is not allowed") : HG_PASS;
    case HAS_DELETE: return matters ? hg_block("DELETE without WHERE is not allowed") : HG_PASS;
    case HAS_UPDATE: return matters ? hg_block("UPDATE without WHERE is not allowed") : HG_PASS;
  }
  return HG_PASS;
}
