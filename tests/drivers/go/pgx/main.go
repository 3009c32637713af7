// The checklist in pgx 5, with its statement cache, pipelined batches and binary formats.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"headgate/drivers/report"
)

var ctx = context.Background()

func connected(work func(*pgx.Conn) (string, error)) func() (string, error) {
	return func() (string, error) {
		conn, err := pgx.Connect(ctx, "")
		if err != nil {
			return "", err
		}
		defer conn.Close(ctx)
		return work(conn)
	}
}

func one(conn *pgx.Conn, sql string, arguments ...any) (string, error) {
	rows, err := conn.Query(ctx, sql, arguments...)
	if err != nil {
		return "", err
	}
	values, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) ([]any, error) {
		return row.Values()
	})
	return report.Show(values...), err
}

func run(conn *pgx.Conn, statements ...string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func state(err error) string {
	var pgError *pgconn.PgError
	if err == nil {
		return "no error"
	}
	if errors.As(err, &pgError) {
		return pgError.Code
	}
	return err.Error()
}

func sqlstate(conn *pgx.Conn, sql string) string {
	_, err := conn.Exec(ctx, sql)
	return state(err)
}

func single(sql string, arguments ...any) func() (string, error) {
	return connected(func(c *pgx.Conn) (string, error) { return one(c, sql, arguments...) })
}

func types(c *pgx.Conn) (string, error) {
	rows, err := c.Query(ctx, report.TypesQuery)
	if err != nil {
		return "", err
	}
	return pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		return fmt.Sprintf("%T %v", values, values), err
	})
}

func prepared() (string, error) {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return "", err
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer pool.Close()
	sums := make(chan int, 10)
	for number := range 10 {
		go func() {
			total := 0
			defer func() { sums <- total }()
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return
			}
			defer conn.Release()
			for range 3 {
				for statement := range 6 {
					var n int
					sql := fmt.Sprintf("SELECT $1::int + %d", statement)
					if err := conn.QueryRow(ctx, sql, number).Scan(&n); err != nil {
						return
					}
					total += n
				}
			}
		}()
	}
	total := 0
	for range 10 {
		total += <-sums
	}
	return report.Show(total), nil
}

func transaction(c *pgx.Conn) (string, error) {
	count := "SELECT count(*) FROM transactions"
	if err := run(c, "CREATE TABLE transactions (n int)"); err != nil {
		return "", err
	}
	insert := "INSERT INTO transactions VALUES ($1)"
	undo := errors.New("undo")
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insert, 1); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			if _, err := inner.Exec(ctx, insert, 2); err != nil {
				return err
			}
			return undo
		})
		if !errors.Is(err, undo) {
			return err
		}
		_, err = tx.Exec(ctx, insert, 3)
		return err
	})
	if err != nil {
		return "", err
	}
	first, err := one(c, count)
	if err != nil {
		return "", err
	}
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insert, 4); err != nil {
			return err
		}
		return undo
	})
	if !errors.Is(err, undo) {
		return "", err
	}
	second, err := one(c, count)
	return report.Show(first, second), err
}

func failures(c *pgx.Conn) (string, error) {
	if err := run(c, "CREATE TABLE unique_numbers (n int PRIMARY KEY)",
		"INSERT INTO unique_numbers VALUES (1)"); err != nil {
		return "", err
	}
	states := []string{
		sqlstate(c, "SELECT 1 / 0"),
		sqlstate(c, "SELEC 1"),
		sqlstate(c, "SELECT * FROM no_such_table"),
		sqlstate(c, "INSERT INTO unique_numbers VALUES (1)"),
	}
	if err := run(c, "BEGIN"); err != nil {
		return "", err
	}
	sqlstate(c, "SELECT 1 / 0")
	states = append(states, sqlstate(c, "SELECT 1"))
	return strings.Join(states, " "), run(c, "ROLLBACK")
}

func copyIn(c *pgx.Conn) (string, error) {
	if err := run(c, "CREATE TABLE copied (n int, t text)"); err != nil {
		return "", err
	}
	source := pgx.CopyFromSlice(1000, func(i int) ([]any, error) { return []any{i + 1, "binary"}, nil })
	if _, err := c.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "t"}, source); err != nil {
		return "", err
	}
	return one(c, "SELECT count(*), sum(n)::int FROM copied")
}

func copyOut(c *pgx.Conn) (string, error) {
	var data bytes.Buffer
	_, err := c.PgConn().CopyTo(ctx, &data, "COPY (SELECT generate_series(1, 1000)) TO STDOUT")
	return report.Show(bytes.Count(data.Bytes(), []byte("\n")), data.Len()), err
}

func copyError(c *pgx.Conn) (string, error) {
	if err := run(c, "CREATE TABLE copied_badly (n int)"); err != nil {
		return "", err
	}
	source := strings.NewReader("1\nnot a number\n3\n")
	_, err := c.PgConn().CopyFrom(ctx, source, "COPY copied_badly FROM STDIN")
	after, problem := one(c, "SELECT 1")
	return report.Show(state(err), after), problem
}

func notify(c *pgx.Conn) (string, error) {
	if err := run(c, "LISTEN checklist_channel"); err != nil {
		return "", err
	}
	sender, err := pgx.Connect(ctx, "")
	if err != nil {
		return "", err
	}
	defer sender.Close(ctx)
	if err := run(sender, "BEGIN", "NOTIFY checklist_channel, 'payload'", "COMMIT"); err != nil {
		return "", err
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	notification, err := c.WaitForNotification(limited)
	if err != nil {
		return "", err
	}
	return report.Show(notification.Channel, notification.Payload), nil
}

func cancelled(c *pgx.Conn) (string, error) {
	go func() {
		time.Sleep(300 * time.Millisecond)
		_ = c.PgConn().CancelRequest(ctx)
	}()
	code := sqlstate(c, "SELECT pg_sleep(20)")
	after, err := one(c, "SELECT 1")
	return report.Show(code, after), err
}

func cursor(c *pgx.Conn) (string, error) {
	if err := run(c, "BEGIN", "DECLARE seven CURSOR FOR SELECT generate_series(1, 100)"); err != nil {
		return "", err
	}
	count, total := 0, 0
	for {
		rows, err := c.Query(ctx, "FETCH 7 FROM seven")
		if err != nil {
			return "", err
		}
		numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil {
			return "", err
		}
		if len(numbers) == 0 {
			return report.Show(count, total), run(c, "COMMIT")
		}
		count += len(numbers)
		for _, n := range numbers {
			total += n
		}
	}
}

func pipeline(c *pgx.Conn) (string, error) {
	batch := &pgx.Batch{}
	for n := 1; n <= 3; n++ {
		batch.Queue("SELECT $1::int", n)
	}
	results := c.SendBatch(ctx, batch)
	numbers := make([]string, 3)
	for i := range numbers {
		var n int
		if err := results.QueryRow().Scan(&n); err != nil {
			return "", err
		}
		numbers[i] = report.Show(n)
	}
	if err := results.Close(); err != nil {
		return "", err
	}
	failing := &pgx.Batch{}
	failing.Queue("SELECT 1")
	failing.Queue("SELECT 1 / $1::int", 0)
	failing.Queue("SELECT 3")
	code := state(c.SendBatch(ctx, failing).Close())
	after, err := one(c, "SELECT 4")
	return report.Show(strings.Join(numbers, ","), code, after), err
}

func largeRow(c *pgx.Conn) (string, error) {
	var text string
	err := c.QueryRow(ctx, "SELECT repeat('x', 8000000)").Scan(&text)
	return report.Show(len(text)), err
}

func largeResult(c *pgx.Conn) (string, error) {
	rows, err := c.Query(ctx, "SELECT generate_series(1, 50000)")
	if err != nil {
		return "", err
	}
	total, n := 0, 0
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
		total += n
		return nil
	})
	return report.Show(total), err
}

func notice() (string, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return "", err
	}
	heard := ""
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { heard += notice.Message }
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	err = run(c, report.Notice)
	return heard, err
}

func settings(c *pgx.Conn) (string, error) {
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

func session(c *pgx.Conn) (string, error) {
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

func multi(c *pgx.Conn) (string, error) {
	results, err := c.PgConn().Exec(ctx, "SELECT 1; SELECT 2").ReadAll()
	if err != nil {
		return "", err
	}
	values := make([]any, len(results))
	for i, result := range results {
		values[i] = string(result.Rows[0][0])
	}
	return report.Show(values...), nil
}

func reconnect(again *pgx.Conn) (string, error) {
	doomed, err := pgx.Connect(ctx, "")
	if err != nil {
		return "", err
	}
	defer doomed.Close(ctx)
	code := sqlstate(doomed, report.Terminate)
	after, err := one(again, "SELECT 1")
	return report.Show(code, doomed.IsClosed(), after), err
}

func main() {
	report.Run([]report.Step{
		{Name: "connect", Run: single("SELECT current_user")},
		{Name: "simple", Run: single("SELECT 1, 'two'")},
		{Name: "parameters", Run: single("SELECT $1::int + 1, $2::text || '!', NOT $3::bool", 41, "text", true)},
		{Name: "types", Run: connected(types)},
		{Name: "nulls", Run: single("SELECT NULL::int, $1::text, $2::int IS NULL", nil, nil)},
		{Name: "prepared", Run: prepared},
		{Name: "transaction", Run: connected(transaction)},
		{Name: "errors", Run: connected(failures)},
		{Name: "copy_in", Run: connected(copyIn)},
		{Name: "copy_out", Run: connected(copyOut)},
		{Name: "copy_error", Run: connected(copyError)},
		{Name: "notify", Run: connected(notify)},
		{Name: "cancel", Run: connected(cancelled)},
		{Name: "cursor", Run: connected(cursor)},
		{Name: "pipeline", Run: connected(pipeline)},
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
