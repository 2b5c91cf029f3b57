// Duck is DuckDB without the commands, in the same version as in the commands.
//
//	duck [-threads N] DB SQL…          runs the statements in turn; DB may be :memory:
//	duck append DB < vectors.ndjson    puts vector records into a table, as a user would write it
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"

	"github.com/duckdb/duckdb-go/v2"

	"gbatch/pkg/record"
)

func main() {
	threads := flag.Int("threads", 2, "threads that DuckDB may use")
	flag.Parse()
	err := error(nil)
	if flag.Arg(0) == "append" {
		err = appendVectors(flag.Arg(1))
	} else {
		err = run(*threads, flag.Arg(0), flag.Args()[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "duck: error:", err)
		os.Exit(1)
	}
}

func run(threads int, path string, statements []string) error {
	if path == ":memory:" {
		path = ""
	}
	db, err := sql.Open("duckdb", fmt.Sprintf("%s?threads=%d", path, threads))
	if err != nil {
		return err
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			return fmt.Errorf("%w: %s", err, s)
		}
	}
	return nil
}

// appendVectors decodes with encoding/json and appends with the driver's
// Appender.
func appendVectors(path string) error {
	ctx := context.Background()
	connector, err := duckdb.NewConnector(path, nil)
	if err != nil {
		return err
	}
	defer connector.Close()
	db := sql.OpenDB(connector)
	if _, err := db.Exec("CREATE TABLE embeddings (chunk_id VARCHAR, embedding FLOAT[768], tokens BIGINT, batch VARCHAR)"); err != nil {
		return err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	appender, err := duckdb.NewAppenderFromConn(conn, "", "embeddings")
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 16<<20)
	for in.Scan() {
		var v record.Vector
		if err := json.Unmarshal(in.Bytes(), &v); err != nil {
			return err
		}
		if v.Vector == nil {
			continue
		}
		values := make([]float32, v.Dim)
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Vector[4*i:]))
		}
		if err := appender.AppendRow(v.Key, values, v.Tokens, v.Batch); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	if err := appender.Close(); err != nil {
		return err
	}
	_, err = db.Exec("CHECKPOINT")
	return err
}
