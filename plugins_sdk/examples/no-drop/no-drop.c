/*
 * Blocks DROP, TRUNCATE, and UPDATE or DELETE without WHERE, wherever they hide.
 *
 * A text is cut into tokens as the server does it, so that literals, comments and quoted names
 * neither hide a statement nor look like one. Every UPDATE and DELETE, in common table expressions,
 * sub-statements, rules and SQL bodies too, needs a WHERE of its own at its own depth of
 * parentheses. The literals of DO, CREATE FUNCTION and CREATE PROCEDURE are texts to be looked into
 * like the statement itself, and so are the literals in them. What cannot be looked into
 * is blocked if it only names one of the four words.
 */
#include "sql.h"

/* What is wrong with a text; the order is that of `reasons`. */
enum verdict { FINE, DROP, TRUNCATE, NO_WHERE_DELETE, NO_WHERE_UPDATE, OPAQUE, VERDICTS };

#define ANSWER(reason) "{\"action\":\"block\",\"value\":\"" reason "\"}"

static const char *const answers[VERDICTS] = {
    "",
    ANSWER("DROP is not allowed"),
    ANSWER("TRUNCATE is not allowed"),
    ANSWER("DELETE without WHERE is not allowed"),
    ANSWER("UPDATE without WHERE is not allowed"),
    ANSWER("DROP, TRUNCATE, DELETE or UPDATE in a text that cannot be looked into"),
};

#define MAX_NESTING 8  /* of texts in texts */
#define MAX_PENDING 64 /* statements that still lack their WHERE, one for each depth */

/* --- configuration: tables = ["orders", ...] ------------------------------------------------------ */

#define MAX_TABLES 64
static char table_names[8192];
static hg_text tables[MAX_TABLES];
static hg_size table_count;

HG_EXPORT("plugin_init") hg_answer plugin_init(const char *at, hg_size size) {
  hg_begin();
  hg_text list = hg_member((hg_text){at, size}, "tables"), element;
  const char *step = 0;
  hg_size used = 0;
  table_count = 0;
  if (list.at != 0 && !hg_is_array(list))
    return HG_CONSTANT(ANSWER("config: tables is no list; expected names, as [\\\"orders\\\"]"));
  while (hg_next(list, &step, &element)) {
    hg_text name = hg_string(element);
    if (name.size == 0) return HG_CONSTANT(ANSWER("config: tables has an element that is no name"));
    if (table_count == MAX_TABLES || used + name.size > sizeof table_names)
      return HG_CONSTANT(ANSWER("config: tables has too many names; expected 64 at most"));
    memcpy(table_names + used, name.at, name.size);
    tables[table_count++] = (hg_text){table_names + used, name.size};
    used += name.size;
  }
  return HG_DEFAULT;
}

/* Whether two names may mean one table: schema and name, or the name where one has no schema. */
static int may_be_same(hg_text a, hg_text b) {
  if (hg_same(a, b)) return 1;
  hg_text longer = a.size > b.size ? a : b, other = a.size > b.size ? b : a;
  hg_size start = longer.size - other.size;
  return start > 0 && start < longer.size && longer.at[start - 1] == '.' &&
         memcmp(longer.at + start, other.at, other.size) == 0;
}

/* Whether a statement may touch a table that is guarded: yes, where its tables are not known. */
static int is_guarded(hg_text envelope) {
  hg_text list = hg_member(envelope, "tables"), element;
  const char *step = 0;
  int is_known = 0;
  if (table_count == 0) return 1;
  while (hg_next(list, &step, &element)) {
    hg_text name = hg_string(element);
    is_known = 1;
    for (hg_size i = 0; i < table_count; i++)
      if (may_be_same(name, tables[i])) return 1;
  }
  return !is_known;
}

/* --- texts that cannot be cut into tokens ----------------------------------------------------------- */

static const char *const words[] = {"drop", "truncate", "delete", "update"};

static int names_a_word(hg_text text) {
  const char *p = text.at, *end = text.at + text.size;
  while (p < end) {
    const char *start = p;
    while (p < end && is_word_part(*p)) p++;
    hg_text word = {start, (hg_size)(p - start)};
    for (int i = 0; i < 4; i++)
      if (hg_is_word(word, words[i])) return 1;
    if (p == start) p++;
  }
  return 0;
}

/* --- texts that can ------------------------------------------------------------------------------ */

typedef struct {
  int depth;
  enum verdict verdict; /* what it is if its WHERE does not come */
} pending_statement;

typedef struct {
  int is_body;        /* of DO or CREATE FUNCTION, or a literal in one */
  int has_execute;    /* the body runs texts that it puts together */
  int nesting;
  int statements;     /* UPDATEs and DELETEs found */
  enum verdict found; /* of what may be no guarded table: the scan goes on */
} scan;

static enum verdict scan_text(hg_text text, scan *state);

static int is_keyword(token t, const char *word) { return t.kind == WORD && hg_is_word(t.text, word); }
static int is_symbol(token t, char symbol) { return t.kind == SYMBOL && t.symbol == symbol; }
static int is_name(token t) { return t.kind == WORD || t.kind == QUOTED; }

/* Whether a statement may begin behind this token. */
static int begins_statement(token before, int is_body) {
  if (before.kind == END || is_symbol(before, ';') || is_keyword(before, "atomic")) return 1;
  if (!is_body) return 0;
  return is_symbol(before, '>') || is_keyword(before, "begin") || is_keyword(before, "then") ||
         is_keyword(before, "else") || is_keyword(before, "loop");
}

/* A part of a name, with the UESCAPE that may follow U&"..."; the token behind it. */
static token behind_name(lexer *ahead) {
  token t = next_token(ahead);
  if (!is_keyword(t, "uescape")) return t;
  next_token(ahead);
  return next_token(ahead);
}

/* Behind UPDATE: [ONLY] name [*] [[AS] alias] SET, with what may stand between. */
static int is_update(lexer ahead) {
  token t = next_token(&ahead);
  if (is_keyword(t, "set")) return 0; /* ON CONFLICT DO UPDATE SET, WHEN MATCHED THEN UPDATE SET */
  if (is_keyword(t, "only")) t = next_token(&ahead);
  int is_wrapped = is_symbol(t, '(');
  if (is_wrapped) t = next_token(&ahead);
  if (!is_name(t)) return 0;
  t = behind_name(&ahead);
  for (int parts = 0; parts < 3 && is_symbol(t, '.'); parts++) {
    next_token(&ahead);
    t = behind_name(&ahead);
  }
  if (is_wrapped && is_symbol(t, ')')) t = next_token(&ahead);
  if (is_symbol(t, '*')) t = next_token(&ahead);
  if (is_keyword(t, "set")) return 1;
  if (is_keyword(t, "for")) return is_keyword(next_token(&ahead), "portion");
  if (is_keyword(t, "as")) next_token(&ahead);
  return is_keyword(behind_name(&ahead), "set");
}

/* What begins at a word that stands behind `before`: a forbidden statement, or one to be watched. */
static enum verdict begun_by(token word, token before, lexer ahead, int is_body) {
  int begins = begins_statement(before, is_body);
  if (is_keyword(word, "drop")) return begins ? DROP : FINE;
  if (is_keyword(word, "truncate")) return begins ? TRUNCATE : FINE;
  if (is_symbol(before, '.')) return FINE;
  lexer peek = ahead;
  token after = next_token(&peek);
  if (is_keyword(word, "delete")) {
    if (begins && after.kind == END) return NO_WHERE_DELETE;
    /* SELECT delete FROM t has a column of that name. */
    int is_column = is_keyword(before, "select") || is_symbol(before, ',');
    return is_keyword(after, "from") && !is_column ? NO_WHERE_DELETE : FINE;
  }
  if (is_keyword(word, "update")) {
    if (begins && !is_keyword(after, "set")) return NO_WHERE_UPDATE;
    return is_update(ahead) ? NO_WHERE_UPDATE : FINE;
  }
  return FINE;
}

/* WHERE may be a label or a variable: RETURNING id AS where, INTO STRICT where. */
static int is_where(token word, token before) {
  return is_keyword(word, "where") && !is_keyword(before, "as") && !is_keyword(before, "into") &&
         !is_keyword(before, "strict") && !is_symbol(before, '.') && !is_symbol(before, ',');
}

/* Whether the literals of a statement are code: DO, CREATE [OR REPLACE] FUNCTION | PROCEDURE. */
static int makes_code(token word, lexer ahead) {
  if (is_keyword(word, "do")) return 1;
  if (!is_keyword(word, "create")) return 0;
  token t = next_token(&ahead);
  if (is_keyword(t, "or")) {
    next_token(&ahead);
    t = next_token(&ahead);
  }
  return is_keyword(t, "function") || is_keyword(t, "procedure");
}

/* Whether code is in a language that is not SQL; `LANGUAGE` may stand before and behind it. */
static int is_foreign(lexer ahead) {
  for (;;) {
    token t = next_token(&ahead);
    if (t.kind == END || t.kind == UNREADABLE) return 0;
    if (!is_keyword(t, "language")) continue;
    t = next_token(&ahead);
    hg_text name = t.text;
    if (t.kind == STRING) name = content_of(t.text);
    if (t.kind == QUOTED && name.size > 2) name = (hg_text){name.at + 1, name.size - 2};
    if (!hg_is_word(name, "sql") && !hg_is_word(name, "plpgsql")) return 1;
  }
}

static int has_execute(hg_text text) {
  lexer words_of = {text.at, text.at + text.size};
  for (;;) {
    token t = next_token(&words_of);
    if (t.kind == END || t.kind == UNREADABLE) return 0;
    if (is_keyword(t, "execute")) return 1;
  }
}

/* One word alone says nothing where nothing is put together: IF TG_OP = 'DELETE'. */
static int is_lone_word(hg_text text) {
  for (hg_size i = 0; i < text.size; i++)
    if (!is_word_part(text.at[i])) return 0;
  return 1;
}

/* Look into a literal that is code. */
static enum verdict scan_code(token literal, int is_foreign_code, scan *outer) {
  if (is_unicode_string(literal.text)) return OPAQUE;
  hg_text text = content_of(literal.text);
  if (is_foreign_code) return names_a_word(text) ? OPAQUE : FINE;
  if (outer->is_body && !outer->has_execute && is_lone_word(text)) return FINE;
  if (outer->nesting == MAX_NESTING) return names_a_word(text) ? OPAQUE : FINE;
  scan inner = {1, outer->has_execute || has_execute(text), outer->nesting + 1, 0, FINE};
  enum verdict verdict = scan_text(text, &inner);
  return verdict != FINE ? verdict : inner.found;
}

/* A statement that lacks its WHERE: final in code, else perhaps about a table nobody guards. */
static int is_final(scan *state, int is_code, enum verdict verdict) {
  if (state->found == FINE) state->found = verdict;
  return state->is_body || is_code;
}

/*
 * Look through a text. What it answers is final; what depends on the tables is left in
 * `state->found`.
 */
static enum verdict scan_text(hg_text text, scan *state) {
  lexer from = {text.at, text.at + text.size};
  token before = {END, {text.at, 0}, 0}, earlier = before;
  pending_statement pending[MAX_PENDING];
  int count = 0, depth = 0, is_code = 0, is_foreign_code = 0;
  for (;;) {
    token t = next_token(&from);
    int is_end = t.kind == END;
    if (t.kind == UNREADABLE) return names_a_word(text) ? OPAQUE : FINE;
    if (is_symbol(t, '(')) {
      depth++;
    } else if (is_symbol(t, ')')) {
      depth--;
    }
    /* What ends a statement: its text, its parenthesis, a semicolon, the LOOP over its rows. */
    int ends_here = is_end || is_symbol(t, ';') || (state->is_body && is_keyword(t, "loop"));
    while (count > 0 && (pending[count - 1].depth > depth || is_end ||
                         (ends_here && pending[count - 1].depth == depth))) {
      enum verdict verdict = pending[--count].verdict;
      if (is_final(state, is_code, verdict)) return verdict;
    }
    if (is_end) return FINE;
    if (t.kind == STRING) {
      /* RAISE NOTICE 'update of % failed' is a message. */
      int is_message = state->is_body && (is_keyword(before, "raise") ||
                                          (is_keyword(earlier, "raise") && before.kind == WORD));
      if ((is_code || state->is_body) && !is_message) {
        enum verdict verdict = scan_code(t, is_foreign_code, state);
        if (verdict != FINE) return verdict;
      }
    } else if (t.kind == WORD) {
      if (begins_statement(before, state->is_body)) {
        is_code = makes_code(t, from);
        is_foreign_code = is_code && is_foreign(from);
      }
      if (is_where(t, before)) {
        if (count > 0 && pending[count - 1].depth == depth) count--;
      } else {
        enum verdict verdict = begun_by(t, before, from, state->is_body);
        if (verdict == DROP || verdict == TRUNCATE) {
          if (is_final(state, is_code, verdict)) return verdict;
        } else if (verdict != FINE) {
          state->statements++;
          if (count > 0 && pending[count - 1].depth == depth) {
            enum verdict lacking = pending[--count].verdict;
            if (is_final(state, is_code, lacking)) return lacking;
          }
          if (count == MAX_PENDING) return OPAQUE;
          pending[count++] = (pending_statement){depth, verdict};
        }
      }
    }
    earlier = before;
    before = t;
  }
}

/* --- the hook -------------------------------------------------------------------------------------- */

/* First letters of what the scan looks for, and what ends or escapes a JSON string. */
static const char is_notable[256] = {
    ['d'] = 1, ['D'] = 1, ['t'] = 1, ['T'] = 1, ['u'] = 1, ['U'] = 1,  ['f'] = 1,
    ['F'] = 1, ['p'] = 1, ['P'] = 1, ['"'] = 1, ['\\'] = 1,
};

static int goes_on(const char *p, const char *end, const char *rest) {
  for (; *rest; p++, rest++)
    if (p >= end || (*p | 32) != *rest) return 0;
  return 1;
}

/*
 * Whether a JSON string, from behind its opening quote, has one of the four words, or begins code.
 * Nearly all have none, so this runs on every statement and the rest of this file on few.
 */
static int is_suspect(const char *p, const char *end) {
  for (;;) {
    while (p < end && !is_notable[(hg_byte)*p]) p++;
    if (p >= end) return 1;
    char c = *p++;
    if (c == '"') return 0;
    if (c == '\\') {
      if (p < end && *p == 'u') return 1;
      p++;
      continue;
    }
    switch (c | 32) {
      case 'd':
        if (goes_on(p, end, "rop") || goes_on(p, end, "elete")) return 1;
        if (goes_on(p, end, "o") && (p + 1 >= end || !is_word_part(p[1]))) return 1;
        break;
      case 't':
        if (goes_on(p, end, "runcate")) return 1;
        break;
      case 'u':
        if (goes_on(p, end, "pdate")) return 1;
        break;
      case 'f':
        if (goes_on(p, end, "unction")) return 1;
        break;
      default:
        if (goes_on(p, end, "rocedure")) return 1;
    }
  }
}

static hg_answer blocked(enum verdict verdict) {
  const char *answer = answers[verdict];
  hg_size size = 0;
  while (answer[size]) size++;
  return hg_answer_of(answer, size);
}

HG_EXPORT("pre_query") hg_answer pre_query(const char *at, hg_size size) {
  static const char start[] = "{\"query\":\"";
  const hg_size start_size = sizeof start - 1;
  if (size > start_size && memcmp(at, start, start_size) == 0 &&
      !is_suspect(at + start_size, at + size))
    return HG_DEFAULT;

  hg_begin();
  hg_text envelope = {at, size};
  hg_text query = hg_member(envelope, "query"), kind = hg_member(envelope, "kind");
  if (!hg_is_string(query)) return blocked(OPAQUE);
  hg_text text = hg_string(query);
  if (!hg_is_string(kind) || hg_says(kind, HG_LITERAL("unknown")))
    return names_a_word(text) ? blocked(OPAQUE) : HG_DEFAULT;

  scan state = {0, 0, 0, 0, FINE};
  enum verdict verdict = scan_text(text, &state);
  if (verdict != FINE) return blocked(verdict);
  /* The server's grammar sees a statement here that this scan does not: it is mistaken. */
  int changes_rows = hg_says(kind, HG_LITERAL("delete")) || hg_says(kind, HG_LITERAL("update"));
  if (changes_rows && state.statements == 0) return blocked(OPAQUE);
  if (state.found != FINE && is_guarded(envelope)) return blocked(state.found);
  return HG_DEFAULT;
}
