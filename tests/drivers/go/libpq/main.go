// The checklist in lib/pq under database/sql, with prepared statements of its own.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"

	"headgate/drivers/report"
)

var ctx = context.Background()

func connected(work func(*sql.Conn) (string, error)) func() (string, error) {
	return func() (string, error) {
		db, err := sql.Open("postgres", "")
		if err != nil {
			return "", err
		}
		defer db.Close()
		conn, err := db.Conn(ctx)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return work(conn)
	}
}

func one(conn *sql.Conn, query string, arguments ...any) (string, error) {
	rows, err := conn.QueryContext(ctx, query, arguments...)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	texts := make([]sql.NullString, len(columns))
	targets := make([]any, len(columns))
	for i := range texts {
		targets[i] = &texts[i]
	}
	if !rows.Next() {
		return "no rows", rows.Err()
	}
	if err := rows.Scan(targets...); err != nil {
		return "", err
	}
	values := make([]any, len(columns))
	for i, text := range texts {
		if text.Valid {
			values[i] = text.String
		}
	}
	return report.Show(values...), rows.Err()
}

func run(conn *sql.Conn, statements ...string) error {
	for _, query := range statements {
		if _, err := conn.ExecContext(ctx, query); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
	}
	return nil
}

func state(err error) string {
	var pqError *pq.Error
	if err == nil {
		return "no error"
	}
	if errors.As(err, &pqError) {
		return string(pqError.Code)
	}
	return err.Error()
}

func sqlstate(conn *sql.Conn, query string, arguments ...any) string {
	_, err := conn.ExecContext(ctx, query, arguments...)
	return state(err)
}

func single(query string, arguments ...any) func() (string, error) {
	return connected(func(c *sql.Conn) (string, error) { return one(c, query, arguments...) })
}

func prepared() (string, error) {
	db, err := sql.Open("postgres", "")
	if err != nil {
		return "", err
	}
	defer db.Close()
	total := 0
	for statement := range 6 {
		query, err := db.Prepare(fmt.Sprintf("SELECT $1::int + %d", statement))
		if err != nil {
			return "", err
		}
		defer query.Close()
		sums := make(chan int, 30)
		for number := range 10 {
			for range 3 {
				// database/sql prepares it again on each connection that it opens.
				go func() {
					n := -1000000
					_ = query.QueryRow(number).Scan(&n)
					sums <- n
				}()
			}
		}
		for range 30 {
			total += <-sums
		}
	}
	return report.Show(total), nil
}

func transaction(c *sql.Conn) (string, error) {
	count := "SELECT count(*) FROM transactions"
	if err := run(c, "CREATE TABLE transactions (n int)"); err != nil {
		return "", err
	}
	tx, err := c.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return "", err
	}
	for _, query := range []string{
		"INSERT INTO transactions VALUES (1)", "SAVEPOINT inside",
		"INSERT INTO transactions VALUES (2)", "ROLLBACK TO SAVEPOINT inside",
		"INSERT INTO transactions VALUES (3)",
	} {
		if _, err := tx.Exec(query); err != nil {
			return "", err
		}
	}
	if err := tx.Commit(); err != nil {
		return "", err
	}
	first, err := one(c, count)
	if err != nil {
		return "", err
	}
	tx, err = c.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	if _, err := tx.Exec("INSERT INTO transactions VALUES ($1)", 4); err != nil {
		return "", err
	}
	if err := tx.Rollback(); err != nil {
		return "", err
	}
	second, err := one(c, count)
	return report.Show(first, second), err
}

func failures(c *sql.Conn) (string, error) {
	if err := run(c, "CREATE TABLE unique_numbers (n int PRIMARY KEY)",
		"INSERT INTO unique_numbers VALUES (1)"); err != nil {
		return "", err
	}
	states := []string{
		sqlstate(c, "SELECT 1 / $1::int", 0),
		sqlstate(c, "SELEC 1"),
		sqlstate(c, "SELECT * FROM no_such_table"),
		sqlstate(c, "INSERT INTO unique_numbers VALUES ($1)", 1),
	}
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	_, _ = tx.Exec("SELECT 1 / 0")
	_, err = tx.Exec("SELECT 1")
	states = append(states, state(err))
	return strings.Join(states, " "), tx.Rollback()
}

func copyRows(c *sql.Conn, table string, rows [][]any) error {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	columns := []string{"n", "t"}
	statement, err := tx.Prepare(pq.CopyIn(table, columns[:len(rows[0])]...))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if _, err := statement.Exec(row...); err != nil {
			return err
		}
	}
	if _, err := statement.Exec(); err != nil {
		return err
	}
	if err := statement.Close(); err != nil {
		return err
	}
	return tx.Commit()
}

func copyIn(c *sql.Conn) (string, error) {
	if err := run(c, "CREATE TABLE copied (n int, t text)"); err != nil {
		return "", err
	}
	rows := make([][]any, 1000)
	for i := range rows {
		rows[i] = []any{i + 1, "text"}
	}
	if err := copyRows(c, "copied", rows); err != nil {
		return "", err
	}
	return one(c, "SELECT count(*), sum(n) FROM copied")
}

func copyError(c *sql.Conn) (string, error) {
	if err := run(c, "CREATE TABLE copied_badly (n int)"); err != nil {
		return "", err
	}
	code := state(copyRows(c, "copied_badly", [][]any{{"1"}, {"not a number"}, {"3"}}))
	after, err := one(c, "SELECT 1")
	return report.Show(code, after), err
}

func notify(c *sql.Conn) (string, error) {
	listener := pq.NewListener("", time.Second, time.Second, nil)
	defer listener.Close()
	if err := listener.Listen("checklist_channel"); err != nil {
		return "", err
	}
	if err := run(c, "BEGIN", "NOTIFY checklist_channel, 'payload'", "COMMIT"); err != nil {
		return "", err
	}
	select {
	case notification := <-listener.Notify:
		return report.Show(notification.Channel, notification.Extra), nil
	case <-time.After(10 * time.Second):
		return "nothing came", nil
	}
}

func cancelled(c *sql.Conn) (string, error) {
	limited, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	// A context that ends is a CancelRequest of lib/pq's.
	_, err := c.ExecContext(limited, "SELECT pg_sleep(20)")
	code := state(err)
	if errors.Is(err, context.DeadlineExceeded) {
		code = "57014"
	}
	// It gives the connection up, though the server has kept it.
	after, err := single("SELECT 1")()
	return report.Show(code, after), err
}

func cursor(c *sql.Conn) (string, error) {
	if err := run(c, "BEGIN", "DECLARE seven CURSOR FOR SELECT generate_series(1, 100)"); err != nil {
		return "", err
	}
	count, total := 0, 0
	for {
		rows, err := c.QueryContext(ctx, "FETCH 7 FROM seven")
		if err != nil {
			return "", err
		}
		fetched := 0
		for rows.Next() {
			n := 0
			if err := rows.Scan(&n); err != nil {
				return "", err
			}
			fetched++
			total += n
		}
		if err := rows.Close(); err != nil {
			return "", err
		}
		if fetched == 0 {
			return report.Show(count, total), run(c, "COMMIT")
		}
		count += fetched
	}
}

func unsupported() (string, error) {
	return "", report.ErrNotSupported
}

func largeRow(c *sql.Conn) (string, error) {
	text, err := one(c, "SELECT repeat('x', 8000000)")
	return report.Show(len(text)), err
}

func largeResult(c *sql.Conn) (string, error) {
	rows, err := c.QueryContext(ctx, "SELECT generate_series(1, $1::int)", 50000)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	total := 0
	for rows.Next() {
		n := 0
		if err := rows.Scan(&n); err != nil {
			return "", err
		}
		total += n
	}
	return report.Show(total), rows.Err()
}

func notice() (string, error) {
	base, err := pq.NewConnector("")
	if err != nil {
		return "", err
	}
	heard := ""
	db := sql.OpenDB(pq.ConnectorWithNoticeHandler(base, func(n *pq.Error) { heard += n.Message }))
	defer db.Close()
	_, err = db.Exec(report.Notice)
	return heard, err
}

func settings(c *sql.Conn) (string, error) {
	if err := run(c, "SET statement_timeout = '54321ms'", "SET application_name = 'checklist'",
		"BEGIN"); err != nil {
		return "", err
	}
	timeout, err := one(c, "SHOW statement_timeout")
	if err != nil {
		return "", err
	}
	if err := run(c, "COMMIT"); err != nil {
		return "", err
	}
	name, err := one(c, "SHOW application_name")
	if err != nil {
		return "", err
	}
	if err := run(c, "RESET statement_timeout"); err != nil {
		return "", err
	}
	after, err := one(c, "SHOW statement_timeout")
	return report.Show(timeout, name, after), err
}

func session(c *sql.Conn) (string, error) {
	if err := run(c, "CREATE TEMPORARY TABLE mine (n int)", "INSERT INTO mine VALUES (1)",
		"SELECT pg_advisory_lock(4711)"); err != nil {
		return "", err
	}
	count, err := one(c, "SELECT count(*) FROM mine")
	if err != nil {
		return "", err
	}
	unlocked, err := one(c, "SELECT pg_advisory_unlock(4711)")
	if err != nil {
		return "", err
	}
	return report.Show(count, unlocked), run(c, "DROP TABLE mine")
}

func multi(c *sql.Conn) (string, error) {
	rows, err := c.QueryContext(ctx, "SELECT 1; SELECT 2")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	values := []any{}
	for {
		for rows.Next() {
			n := 0
			if err := rows.Scan(&n); err != nil {
				return "", err
			}
			values = append(values, n)
		}
		if !rows.NextResultSet() {
			return report.Show(values...), rows.Err()
		}
	}
}

func reconnect(c *sql.Conn) (string, error) {
	code := ""
	_, err := connected(func(doomed *sql.Conn) (string, error) {
		code = sqlstate(doomed, report.Terminate)
		return "", nil
	})()
	if err != nil {
		return "", err
	}
	after, err := one(c, "SELECT 1")
	return report.Show(code, after), err
}

func main() {
	report.Run([]report.Step{
		{Name: "connect", Run: single("SELECT current_user")},
		{Name: "simple", Run: single("SELECT 1, 'two'")},
		{Name: "parameters", Run: single("SELECT $1::int + 1, $2::text || '!', NOT $3::bool", 41, "text", true)},
		{Name: "types", Run: single(report.TypesQuery)},
		{Name: "nulls", Run: single("SELECT NULL::int, $1::text, $2::int IS NULL", nil, nil)},
		{Name: "prepared", Run: prepared},
		{Name: "transaction", Run: connected(transaction)},
		{Name: "errors", Run: connected(failures)},
		{Name: "copy_in", Run: connected(copyIn)},
		{Name: "copy_out", Run: unsupported},
		{Name: "copy_error", Run: connected(copyError)},
		{Name: "notify", Run: connected(notify)},
		{Name: "cancel", Run: connected(cancelled)},
		{Name: "cursor", Run: connected(cursor)},
		{Name: "pipeline", Run: unsupported},
		{Name: "large_row", Run: connected(largeRow)},
		{Name: "large_result", Run: connected(largeResult)},
		{Name: "notice", Run: notice},
		{Name: "unicode", Run: single("SELECT $1::text, char_length($1::text)", report.Unicode)},
		{Name: "settings", Run: connected(settings)},
		{Name: "session", Run: connected(session)},
		{Name: "multi", Run: connected(multi)},
		{Name: "reconnect", Run: connected(reconnect)},
	})
}
