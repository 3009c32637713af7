// Package report runs the steps of one program and prints what came out, a JSON object a line.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	TypesQuery = "SELECT true, 7::int2, 70000::int4, 7000000000::int8, 1.5::float8, 12345.678::numeric," +
		" 'text'::text, '\\x00ff'::bytea, date '2024-02-29', timestamp '2024-02-29 12:34:56.789'," +
		" timestamptz '2024-02-29 12:34:56+00', '6ecd8c99-4036-403d-bf84-cf8400f67836'::uuid," +
		" '{\"a\": [1, null]}'::jsonb, ARRAY[1, 2, NULL]::int4[], interval '1 day 02:03:04'," +
		" 'a'::char(3), point(1, 2)"
	Unicode     = "Žluťoučký 🐘 日本語"
	Notice      = "DO $$ BEGIN RAISE NOTICE 'hello from the server'; END $$"
	Terminate   = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)"
	StepTimeout = 30 * time.Second
)

// ErrNotSupported is the cause of a step that the driver has no interface for.
var ErrNotSupported = errors.New("no interface for it")

// Step is one entry of the checklist.
type Step struct {
	Name string
	Run  func() (string, error)
}

type outcome struct {
	value string
	err   error
}

// Show joins values the same way in every program.
func Show(values ...any) string {
	texts := make([]string, len(values))
	for i, value := range values {
		switch v := value.(type) {
		case nil:
			texts[i] = "null"
		case *string:
			texts[i] = "null"
			if v != nil {
				texts[i] = *v
			}
		default:
			texts[i] = fmt.Sprint(v)
		}
	}
	return strings.Join(texts, "|")
}

// Run runs the steps in order; a step that hangs ends the program.
func Run(steps []Step) {
	encoder := json.NewEncoder(os.Stdout)
	for _, step := range steps {
		done := make(chan outcome, 1)
		go func() {
			value, err := step.Run()
			done <- outcome{value, err}
		}()
		entry := map[string]string{"step": step.Name}
		select {
		case out := <-done:
			switch {
			case errors.Is(out.err, ErrNotSupported):
				entry["skip"] = out.err.Error()
			case out.err != nil:
				entry["value"] = "failed: " + out.err.Error()
			default:
				entry["value"] = out.value
			}
		case <-time.After(StepTimeout):
			entry["value"] = "failed: step timed out"
		}
		if err := encoder.Encode(entry); err != nil {
			os.Exit(1)
		}
	}
}
