/*
 * Puts a comment in front of every statement that reads or changes rows: with which program, for
 * which tenant, by whom. It shows in pg_stat_activity and in the server's log:
 *
 *   app='psql',tenant='shop',user='alice'
 *
 * Values are encoded as sqlcommenter does it, so that none ends its quotes or the comment.
 */
#include "../../c/headgate.h"

static char label_text[64] = "";
static hg_size label_size;

/* tenant = "name": the same for all, else the identity's tenant, else the database. */
HG_EXPORT("plugin_init") hg_answer plugin_init(const char *at, hg_size size) {
  hg_begin();
  hg_text value = hg_member((hg_text){at, size}, "tenant");
  label_size = 0;
  if (value.at == 0) return HG_DEFAULT;
  hg_text name = hg_string(value);
  if (name.at == 0 || name.size > sizeof label_text)
    return HG_CONSTANT(
        "{\"action\":\"block\",\"value\":\"config: tenant is no name; expected text, 64 bytes at most\"}");
  memcpy(label_text, name.at, name.size);
  label_size = name.size;
  return HG_DEFAULT;
}

static int is_plain(char c) {
  return (hg_lower(c) >= 'a' && hg_lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.' || c == '~';
}

/* ,name='value' with everything but letters, digits and -_.~ as %XX */
static void put_tag(hg_writer *writer, const char *separator, hg_text name, hg_text value) {
  static const char digits[] = "0123456789ABCDEF";
  while (*separator) hg_put_char(writer, *separator++);
  hg_put(writer, name);
  hg_put(writer, HG_LITERAL("='"));
  for (hg_size i = 0; i < value.size; i++) {
    hg_byte c = (hg_byte)value.at[i];
    if (is_plain((char)c)) {
      hg_put_char(writer, (char)c);
    } else {
      hg_put_char(writer, '%');
      hg_put_char(writer, digits[c >> 4]);
      hg_put_char(writer, digits[c & 15]);
    }
  }
  hg_put_char(writer, '\'');
}

/* The first word of a text, behind white space; comments are not looked behind. */
static hg_text first_word(hg_text text) {
  const char *p = hg_skip_space(text.at, text.at + text.size), *end = text.at + text.size;
  const char *start = p;
  while (p < end && hg_lower(*p) >= 'a' && hg_lower(*p) <= 'z') p++;
  return (hg_text){start, (hg_size)(p - start)};
}

HG_EXPORT("rewrite") hg_answer rewrite(const char *at, hg_size size) {
  hg_begin();
  hg_text envelope = {at, size};
  /* What the proxy could not read is not touched: it may be in any encoding. */
  if (hg_says(hg_member(envelope, "kind"), HG_LITERAL("unknown"))) return HG_DEFAULT;
  hg_text query = hg_string(hg_member(envelope, "query"));
  if (query.size == 0) return HG_DEFAULT;
  /* SQL EXECUTE cannot be given another text than what was prepared. */
  hg_text word = first_word(query);
  if (hg_is_word(word, "prepare") || hg_is_word(word, "execute")) return HG_DEFAULT;

  hg_text context = hg_member(envelope, "hook_context");
  hg_text attributes = hg_member(context, "attributes");
  hg_text tenant = {label_text, label_size};
  if (tenant.size == 0) tenant = hg_string(hg_member(attributes, "tenant_id"));
  if (tenant.size == 0) tenant = hg_string(hg_member(context, "database"));
  hg_text user = hg_string(hg_member(context, "identity"));
  hg_text app = hg_string(hg_member(attributes, "application_name"));

  hg_writer tagged = hg_write();
  put_tag(&tagged, "/*", HG_LITERAL("app"), app);
  put_tag(&tagged, ",", HG_LITERAL("tenant"), tenant);
  put_tag(&tagged, ",", HG_LITERAL("user"), user);
  hg_put(&tagged, HG_LITERAL("*/ "));
  hg_put(&tagged, query);
  return hg_rewrite(hg_written(&tagged));
}
