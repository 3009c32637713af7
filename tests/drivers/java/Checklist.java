// The checklist in pgjdbc, with statements prepared on the server from their first use on.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

public final class Checklist {
  private static final String TYPES_QUERY =
      "SELECT true, 7::int2, 70000::int4, 7000000000::int8, 1.5::float8, 12345.678::numeric,"
          + " 'text'::text, '\\x00ff'::bytea, date '2024-02-29',"
          + " timestamp '2024-02-29 12:34:56.789', timestamptz '2024-02-29 12:34:56+00',"
          + " '6ecd8c99-4036-403d-bf84-cf8400f67836'::uuid, '{\"a\": [1, null]}'::jsonb,"
          + " ARRAY[1, 2, NULL]::int4[], interval '1 day 02:03:04', 'a'::char(3),"
          + " inet '10.0.0.1', point(1, 2), int4range(1, 5)";
  private static final String UNICODE = "Žluťoučký 🐘 日本語";
  private static final String COUNT = "SELECT count(*) FROM transactions";

  private interface Step {
    String run(Connection connection) throws Exception;
  }


  private static Connection connect() throws SQLException {
    String url =
        "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/";
    Properties properties = new Properties();
    properties.setProperty("user", System.getenv("PGUSER"));
    properties.setProperty("password", System.getenv("PGPASSWORD"));
    properties.setProperty("prepareThreshold", "1");
    properties.setProperty("connectTimeout", "10");
    properties.setProperty("socketTimeout", "40");
    return DriverManager.getConnection(url + System.getenv("PGDATABASE"), properties);
  }

  private static String show(Object... values) {
    List<String> texts = new ArrayList<>();
    for (Object value : values) {
      texts.add(String.valueOf(value));
    }
    return String.join("|", texts);
  }

  private static Object[] one(Connection c, String sql, Object... parameters) throws SQLException {
    try (PreparedStatement statement = c.prepareStatement(sql)) {
      for (int i = 0; i < parameters.length; i++) {
        if (parameters[i] == null) {
          statement.setNull(i + 1, Types.VARCHAR);
        } else {
          statement.setObject(i + 1, parameters[i]);
        }
      }
      try (ResultSet rows = statement.executeQuery()) {
        Object[] values = new Object[rows.getMetaData().getColumnCount()];
        rows.next();
        for (int i = 0; i < values.length; i++) {
          values[i] = rows.getObject(i + 1);
        }
        return values;
      }
    }
  }

  private static void run(Connection c, String... statements) throws SQLException {
    for (String sql : statements) {
      try (Statement statement = c.createStatement()) {
        statement.execute(sql);
      }
    }
  }

  private static String sqlstate(Connection c, String sql) {
    try {
      run(c, sql);
      return "no error";
    } catch (SQLException error) {
      return error.getSQLState();
    }
  }

  private static String types(Connection c) throws SQLException {
    List<String> texts = new ArrayList<>();
    for (Object value : one(c, TYPES_QUERY)) {
      String text =
          value instanceof byte[] bytes ? java.util.Arrays.toString(bytes) : value.toString();
      texts.add(value.getClass().getSimpleName() + ":" + text);
    }
    return String.join(" ", texts);
  }

  private static String prepared(Connection c) throws SQLException {
    long total = 0;
    List<Connection> connections = new ArrayList<>();
    for (int number = 0; number < 10; number++) {
      connections.add(connect());
    }
    for (int round = 0; round < 3; round++) {
      for (int number = 0; number < 10; number++) {
        for (int statement = 0; statement < 6; statement++) {
          String sql = "SELECT ?::int + " + statement;
          total += (Integer) one(connections.get(number), sql, number)[0];
        }
      }
    }
    for (Connection connection : connections) {
      connection.close();
    }
    return show(total);
  }

  private static String transaction(Connection c) throws SQLException {
    run(c, "CREATE TABLE transactions (n int)");
    c.setAutoCommit(false);
    run(c, "INSERT INTO transactions VALUES (1)");
    Savepoint inside = c.setSavepoint("inside");
    run(c, "INSERT INTO transactions VALUES (2)");
    c.rollback(inside);
    run(c, "INSERT INTO transactions VALUES (3)");
    c.commit();
    Object first = one(c, COUNT)[0];
    run(c, "INSERT INTO transactions VALUES (4)");
    c.rollback();
    Object second = one(c, COUNT)[0];
    c.commit();
    c.setAutoCommit(true);
    return show(first, second);
  }

  private static String errors(Connection c) throws SQLException {
    run(c, "CREATE TABLE unique_numbers (n int PRIMARY KEY)");
    run(c, "INSERT INTO unique_numbers VALUES (1)");
    List<String> states = new ArrayList<>();
    states.add(sqlstate(c, "SELECT 1 / 0"));
    states.add(sqlstate(c, "SELEC 1"));
    states.add(sqlstate(c, "SELECT * FROM no_such_table"));
    states.add(sqlstate(c, "INSERT INTO unique_numbers VALUES (1)"));
    c.setAutoCommit(false);
    sqlstate(c, "SELECT 1 / 0");
    states.add(sqlstate(c, "SELECT 1"));
    c.rollback();
    c.setAutoCommit(true);
    return String.join(" ", states);
  }

  private static String copyIn(Connection c) throws Exception {
    run(c, "CREATE TABLE copied (n int, t text)");
    StringBuilder lines = new StringBuilder();
    for (int n = 1; n <= 1000; n++) {
      lines.append(n).append("\ttext\n");
    }
    PGConnection connection = c.unwrap(PGConnection.class);
    connection
        .getCopyAPI()
        .copyIn("COPY copied FROM STDIN", new StringReader(lines.toString()));
    return show(one(c, "SELECT count(*), sum(n) FROM copied"));
  }

  private static String copyOut(Connection c) throws Exception {
    ByteArrayOutputStream target = new ByteArrayOutputStream();
    c.unwrap(PGConnection.class)
        .getCopyAPI()
        .copyOut("COPY (SELECT generate_series(1, 1000)) TO STDOUT", target);
    String data = target.toString("UTF-8");
    return show(data.chars().filter(letter -> letter == '\n').count(), data.length());
  }

  private static String copyError(Connection c) throws Exception {
    run(c, "CREATE TABLE copied_badly (n int)");
    String state = "no error";
    try {
      c.unwrap(PGConnection.class)
          .getCopyAPI()
          .copyIn("COPY copied_badly FROM STDIN", new StringReader("1\nnot a number\n3\n"));
    } catch (SQLException error) {
      state = error.getSQLState();
    }
    return show(state, one(c, "SELECT 1")[0]);
  }

  private static String notification(Connection c) throws SQLException {
    run(c, "LISTEN checklist_channel");
    try (Connection sender = connect()) {
      sender.setAutoCommit(false);
      run(sender, "NOTIFY checklist_channel, 'payload'");
      sender.commit();
    }
    PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(10000);
    return heard == null || heard.length == 0
        ? "nothing came"
        : show(heard[0].getName(), heard[0].getParameter());
  }

  private static String cancel(Connection c) throws Exception {
    String[] state = {"no error"};
    try (Statement statement = c.createStatement()) {
      Thread thread =
          new Thread(
              () -> {
                try {
                  statement.execute("SELECT pg_sleep(20)");
                } catch (SQLException error) {
                  state[0] = error.getSQLState();
                }
              });
      thread.start();
      Thread.sleep(300);
      statement.cancel();
      thread.join();
    }
    return show(state[0], one(c, "SELECT 1")[0]);
  }

  private static String cursor(Connection c) throws SQLException {
    long count = 0;
    long total = 0;
    c.setAutoCommit(false);
    try (PreparedStatement statement = c.prepareStatement("SELECT generate_series(1, ?)")) {
      statement.setInt(1, 100);
      statement.setFetchSize(7);
      try (ResultSet rows = statement.executeQuery()) {
        while (rows.next()) {
          count++;
          total += rows.getInt(1);
        }
      }
    }
    c.commit();
    c.setAutoCommit(true);
    return show(count, total);
  }

  private static String pipeline(Connection c) throws SQLException {
    run(c, "CREATE TABLE piped (n int)");
    int[] counts;
    String state = "no error";
    try (PreparedStatement insert = c.prepareStatement("INSERT INTO piped VALUES (6 / ?)")) {
      for (int n = 1; n <= 3; n++) {
        insert.setInt(1, n);
        insert.addBatch();
      }
      counts = insert.executeBatch();
      for (int n = 0; n <= 2; n++) {
        insert.setInt(1, n);
        insert.addBatch();
      }
      insert.executeBatch();
    } catch (SQLException error) {
      state = error.getSQLState();
      counts = new int[] {1, 1, 1};
    }
    Object done = one(c, "SELECT string_agg((6 / n)::text, ',' ORDER BY -n) FROM piped")[0];
    return show(done, state, counts.length + 1);
  }

  private static String largeResult(Connection c) throws SQLException {
    long total = 0;
    try (Statement statement = c.createStatement();
        ResultSet rows = statement.executeQuery("SELECT generate_series(1, 50000)")) {
      while (rows.next()) {
        total += rows.getInt(1);
      }
    }
    return show(total);
  }

  private static String notice(Connection c) throws SQLException {
    try (Statement statement = c.createStatement()) {
      statement.execute("DO $$ BEGIN RAISE NOTICE 'hello from the server'; END $$");
      SQLWarning warning = statement.getWarnings();
      return warning == null ? "nothing came" : warning.getMessage();
    }
  }

  private static String settings(Connection c) throws SQLException {
    run(c, "SET statement_timeout = '54321ms'", "SET application_name = 'checklist'");
    c.setAutoCommit(false);
    Object timeout = one(c, "SHOW statement_timeout")[0];
    c.commit();
    c.setAutoCommit(true);
    Object name = one(c, "SHOW application_name")[0];
    run(c, "RESET statement_timeout");
    return show(timeout, name, one(c, "SHOW statement_timeout")[0]);
  }

  private static String session(Connection c) throws SQLException {
    run(c, "CREATE TEMPORARY TABLE mine (n int)", "INSERT INTO mine VALUES (1)");
    one(c, "SELECT pg_advisory_lock(4711)");
    Object count = one(c, "SELECT count(*) FROM mine")[0];
    Object unlocked = one(c, "SELECT pg_advisory_unlock(4711)")[0];
    run(c, "DROP TABLE mine");
    return show(count, unlocked);
  }

  private static String multi(Connection c) throws SQLException {
    List<Object> values = new ArrayList<>();
    try (Statement statement = c.createStatement()) {
      boolean isRows = statement.execute("SELECT 1; SELECT 2");
      while (isRows) {
        try (ResultSet rows = statement.getResultSet()) {
          rows.next();
          values.add(rows.getObject(1));
        }
        isRows = statement.getMoreResults();
      }
    }
    return show(values.toArray());
  }

  private static String reconnect(Connection c) throws SQLException {
    try (Connection doomed = connect()) {
      String state =
          sqlstate(doomed, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)");
      return show(state, doomed.isClosed(), one(c, "SELECT 1")[0]);
    }
  }

  private static String quote(String text) {
    StringBuilder quoted = new StringBuilder("\"");
    for (char letter : text.toCharArray()) {
      if (letter == '"' || letter == '\\') {
        quoted.append('\\').append(letter);
      } else if (letter < ' ') {
        quoted.append(String.format("\\u%04x", (int) letter));
      } else {
        quoted.append(letter);
      }
    }
    return quoted.append('"').toString();
  }

  private static void perform(String name, Step step) {
    String text;
    try (Connection connection = connect()) {
      text = step.run(connection);
    } catch (Exception error) {
      text = "failed: " + error;
    }
    System.out.println("{\"step\": " + quote(name) + ", \"value\": " + quote(text) + "}");
  }

  public static void main(String[] arguments) throws Exception {
    System.setOut(new java.io.PrintStream(System.out, true, "UTF-8"));
    String unicode = "SELECT ?::text, char_length(?::text)";
    String nulls = "SELECT NULL::int, ?::text, ?::int IS NULL";
    String parameters = "SELECT ?::int + 1, ?::text || '!', NOT ?::bool";
    perform("connect", c -> show(one(c, "SELECT current_user")));
    perform("simple", c -> show(one(c, "SELECT 1, 'two'")));
    perform("parameters", c -> show(one(c, parameters, 41, "text", true)));
    perform("types", Checklist::types);
    perform("nulls", c -> show(one(c, nulls, null, null)));
    perform("prepared", Checklist::prepared);
    perform("transaction", Checklist::transaction);
    perform("errors", Checklist::errors);
    perform("copy_in", Checklist::copyIn);
    perform("copy_out", Checklist::copyOut);
    perform("copy_error", Checklist::copyError);
    perform("notify", Checklist::notification);
    perform("cancel", Checklist::cancel);
    perform("cursor", Checklist::cursor);
    perform("pipeline", Checklist::pipeline);
    String large = "SELECT repeat('x', 8000000)";
    perform("large_row", c -> show(((String) one(c, large)[0]).length()));
    perform("large_result", Checklist::largeResult);
    perform("notice", Checklist::notice);
    perform("unicode", c -> show(one(c, unicode, UNICODE, UNICODE)));
    perform("settings", Checklist::settings);
    perform("session", Checklist::session);
    perform("multi", Checklist::multi);
    perform("reconnect", Checklist::reconnect);
  }
}
