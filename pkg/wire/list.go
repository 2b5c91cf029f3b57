package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

const (
	PageSize  = 100    // the largest that Google accepts; Google chooses the size if none is given
	manyPages = 50     // after so many the user is told
	mostPages = 100000 // a longer list is treated as endless
)

// A Page is one reply to a list call.
type Page struct {
	Items []json.RawMessage
	Next  string // token of the next page; empty on the last page
}

// EveryPage calls each with the pages of a list, from the first one until the
// last one or until each wants no more. get requests one page.
func EveryPage(ctx context.Context, what string, get func(ctx context.Context, token string) (Page, error), each func(Page) (more bool, err error)) error {
	seen := map[string]bool{}
	for token, n := "", 1; ; n++ {
		p, err := get(ctx, token)
		if err != nil {
			return err
		}
		more, err := each(p)
		if err != nil || !more || p.Next == "" {
			return err
		}
		if seen[p.Next] || n == mostPages {
			return Permanent(errors.New("google's list does not end: its pages repeat"))
		}
		if n%manyPages == 0 {
			slog.Info("google's list is long, reading on", "list", what, "pages", n)
		}
		token = p.Next
		seen[token] = true
	}
}

// DecodePage reads a page. member is the name of the member that holds the
// items. An object with a member that a list does not have is not a list: an
// error, or the list of another vendor, must not be taken for an empty list. A list
// may have the members in also, which are ignored.
func DecodePage(body []byte, member string, also ...string) (p Page, err error) {
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
		if slices.Contains(also, name) {
			continue
		}
		switch name {
		case member:
			err = json.Unmarshal(value, &p.Items)
		case "nextPageToken":
			err = json.Unmarshal(value, &p.Next)
		default: // including unreachable, which says that a part is missing
			return p, Permanent(fmt.Errorf("the reply is not a list of %s: it has a member %.50q", member, name))
		}
		if err != nil {
			return p, Permanent(fmt.Errorf("the reply is not a list of %s: %w", member, err))
		}
	}
	return p, nil
}
