package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

const (
	pageSize  = 100    // the largest that Google takes; without one Google would choose
	manyPages = 50     // to be told of
	mostPages = 100000 // of a list that ends
)

// A page is one reply to a list call.
type page struct {
	items []json.RawMessage
	next  string // token of the page behind it; empty: this is the last
}

// everyPage calls each with the pages of a list, from the first on, until the
// last or until each wants no more. get asks for one page.
func everyPage(ctx context.Context, what string, get func(ctx context.Context, token string) (page, error), each func(page) (more bool, err error)) error {
	seen := map[string]bool{}
	for token, n := "", 1; ; n++ {
		p, err := get(ctx, token)
		if err != nil {
			return err
		}
		more, err := each(p)
		if err != nil || !more || p.next == "" {
			return err
		}
		if seen[p.next] || n == mostPages {
			return permanent{errors.New("google's list does not end: its pages come again")}
		}
		if n%manyPages == 0 {
			slog.Info("google's list is long, reading on", "list", what, "pages", n)
		}
		token = p.next
		seen[token] = true
	}
}

// decodePage reads a page whose items stand in member. An object with anything
// but the members of a list is none: an error or another vendor's list must not
// be taken for an empty one.
func decodePage(body []byte, member string) (p page, err error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return p, fmt.Errorf("the reply is not a list: %w", err)
	}
	if doc == nil {
		return p, errors.New("the reply is not a list: it is null")
	}
	if doc["error"] != nil {
		return p, fmt.Errorf("the reply is not a list: %.200s", bytes.TrimSpace(doc["error"]))
	}
	for name, value := range doc {
		switch name {
		case member:
			err = json.Unmarshal(value, &p.items)
		case "nextPageToken":
			err = json.Unmarshal(value, &p.next)
		default: // unreachable among them, which says that a part is missing
			return p, permanent{fmt.Errorf("the reply is not a list of %s: it has a member %.50q", member, name)}
		}
		if err != nil {
			return p, permanent{fmt.Errorf("the reply is not a list of %s: %w", member, err)}
		}
	}
	return p, nil
}
