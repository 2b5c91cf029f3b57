package gbatch

import (
	"context"
	"encoding/json"
	"errors"
)

// pageSize is the largest that Google takes. Without one Google would choose.
const pageSize = 100

// A page is one reply to a list call.
type page struct {
	items []json.RawMessage
	next  string // token of the page behind it; empty: this is the last
}

// everyPage calls each with the pages of a list, from the first to the last. get
// asks for one page.
func everyPage(ctx context.Context, get func(ctx context.Context, token string) (page, error), each func(page) error) error {
	for token := ""; ; {
		p, err := get(ctx, token)
		if err != nil {
			return err
		}
		if err := each(p); err != nil {
			return err
		}
		if p.next == "" {
			return nil
		}
		if p.next == token {
			return permanent{errors.New("google's list does not end: a page names itself as the next")}
		}
		token = p.next
	}
}
