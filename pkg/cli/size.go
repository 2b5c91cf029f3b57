package cli

import (
	"fmt"
	"strconv"
	"strings"
)

// A Size is a number of bytes, written as 100MB, 64KiB or 1048576.
type Size int64

var units = []struct {
	suffix string
	bytes  int64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// UnmarshalText reads a positive whole number with an optional unit, in
// powers of 1000 (KB, MB, GB) or of 1024 (KiB, MiB, GiB).
func (s *Size) UnmarshalText(text []byte) error {
	upper := strings.ToUpper(strings.TrimSpace(string(text)))
	for _, u := range units {
		digits, ok := strings.CutSuffix(upper, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n <= 0 || n > (1<<62)/u.bytes {
			break
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 100MB or 64KiB", text)
}

// A Count is a whole number from 1. The zero value says that none is given.
type Count int

func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a whole number from 1", text)
	}
	*c = Count(n)
	return nil
}
