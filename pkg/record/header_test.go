package record

import (
	"fmt"
	"strings"
	"testing"
)

// The name of a batch has 1 to 128 characters.
func TestBatchName(t *testing.T) {
	for name, good := range map[string]bool{"b01.x-_": true, strings.Repeat("b", 128): true, strings.Repeat("b", 129): false, "": false, "-b": false, "b/c": false, "b\\n": false} {
		var h Header
		header, err := new(RawChunk).Parse(fmt.Appendf(nil, `{"batch":"%s","count":1,"model":"m","dim":3}`, name), &h)
		if !header || (err == nil) != good || good && h.Batch != name {
			t.Errorf("%q: %v, %v, %v", name, header, h, err)
		}
	}
}
