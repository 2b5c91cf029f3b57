package record

import (
	"errors"
	"fmt"

	"gbatch/pkg/ndjson"
)

// Parse reads a chunk line. The id may also be a whole number; its digits are
// the id then.
func (c *Chunk) Parse(line []byte) error {
	*c = Chunk{}
	err := ndjson.Object(line, func(name, value []byte) (err error) {
		switch string(name) {
		case "id":
			if c.ID, err = id(value); err != nil {
				return err
			}
		case "text":
			c.Text, err = text(name, value)
		case "title":
			c.Title, err = text(name, value)
		case "context":
			c.Context, err = text(name, value)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case c.ID == "":
		return errors.New("the chunk has no id")
	case c.Text == "" && c.Context == "":
		return fmt.Errorf("chunk %q has no text", c.ID)
	}
	return nil
}

func id(value []byte) (string, error) {
	if value[0] == '"' {
		return ndjson.String(value)
	}
	for i, d := range value {
		if (d < '0' || d > '9') && (d != '-' || i > 0) {
			return "", fmt.Errorf("the id is %.40s; it must be a string or a whole number", value)
		}
	}
	return string(value), nil
}

func text(name, value []byte) (string, error) {
	switch value[0] {
	case '"':
		return ndjson.String(value)
	case 'n':
		return "", nil
	}
	return "", fmt.Errorf("%s is %.40s; it must be a string", name, value)
}
