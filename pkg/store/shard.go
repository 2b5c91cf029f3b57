package store

import (
	"fmt"
	"strconv"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

// A Shard is one of several parts of a source, each of which has a database of its
// own. The zero value is the whole source.
type Shard struct{ Number, Of int }

// UnmarshalText reads a shard as 3/64: the numbers are 0/64 to 63/64.
func (s *Shard) UnmarshalText(text []byte) error {
	number, of, _ := strings.Cut(string(text), "/")
	n, err := strconv.Atoi(number)
	count, err2 := strconv.Atoi(of)
	if err != nil || err2 != nil || n < 0 || n >= count {
		return fmt.Errorf("%.100q is not a shard such as 0/64, where 63/64 is the last one", text)
	}
	*s = Shard{n, count}
	return nil
}

// String is "" for the whole source.
func (s Shard) String() string {
	if s.Of == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.Number, s.Of)
}

// take makes a source that of a shard: a SELECT of its chunks. It is stored as the
// source of the batches, so that all commands read the same chunks. MD5 puts an id
// into the same shard with every version of DuckDB: the number is md5_number_lower, a
// macro, without its slow detour over a text of bits. A row without an id is in shard
// 0, which is refused for it.
func (s *source) take(shard Shard) {
	if shard.Of == 0 {
		return
	}
	s.from = fmt.Sprintf("SELECT * FROM %s WHERE coalesce(CAST((md5_number(CAST(id AS VARCHAR)) >> 64) & 18446744073709551615 AS UBIGINT) %% %d, 0) = %d", s.sql, shard.Of, shard.Number)
	s.sql, s.table, s.stored = "("+s.from+")", false, false
}

// sameShard refuses another shard than that whose chunks the database has claimed:
// chunks would be in two databases, and paid for twice. Other shards belong to other
// databases.
func (p *Pending) sameShard(c *duck.Conn) error {
	var have string
	found, err := c.One(func(r *duck.Rows) { have = r.Text(0) }, "SELECT coalesce(shard, '') FROM gbatch.jobs WHERE coalesce(shard, '') <> ? AND NOT coalesce(state = '"+released+"' AND tokens = 0, false) LIMIT 1", p.Shard.String())
	switch db := exit.Word(p.DB); {
	case err != nil || !found:
		return err
	case have == "":
		return exit.Errorf(exit.Usage, "%s has batches that were claimed without --shard, whose chunks may be in any shard and would be paid for again in another database: go on without --shard, or give each shard a new database", db)
	default:
		return exit.Errorf(exit.Usage, "%s holds shard %s: with another shard, or without one, chunks would be paid for again in another database; go on with chunks-pending %[1]s --shard %[2]s", db, have)
	}
}
