package main

import (
	"slices"
	"strings"
)

// divideParts divides a report before each title of the second level.
func divideParts(text string) (parts []string) {
	for i, part := range strings.Split("\n"+strings.TrimSpace(text), "\n## ") {
		if i > 0 {
			part = "## " + part
		}
		parts = append(parts, strings.TrimSpace(part))
	}
	return parts
}

func titleOf(part string) string {
	line, _, _ := strings.Cut(part, "\n")
	return strings.TrimPrefix(line, "## ")
}

// merge puts the parts of a run of some sections into a report. A part replaces the one
// with its title. A new part follows the part before it, or stands before the next
// section that the report has. Of the goals only those that were measured are replaced.
// note says from which run the parts are.
func merge(old, text, note string) string {
	parts := divideParts(old)
	find := func(title string) int {
		return slices.IndexFunc(parts, func(p string) bool { return titleOf(p) == title })
	}
	at := -1 // of the part that was put last
	for _, part := range divideParts(text)[1:] {
		title := titleOf(part)
		i := find(title)
		if title == "Goals" {
			if i >= 0 {
				parts[i] = mergeGoals(parts[i], part)
			}
			continue
		}
		if table := strings.Index(part, "\n|"); table >= 0 {
			part = part[:table] + "\n" + note + "\n" + part[table:]
		} else {
			part = strings.Replace(part, "\n", "\n\n"+note+"\n", 1)
		}
		switch {
		case i >= 0:
			parts[i] = part
		case at >= 0:
			i = at + 1
			parts = slices.Insert(parts, i, part)
		default:
			i = len(parts)
			later := false
			for _, s := range sections {
				if n := find(s.title); later && n >= 0 {
					i = n
					break
				}
				later = later || s.title == title
			}
			parts = slices.Insert(parts, i, part)
		}
		at = i
	}
	return strings.Join(parts, "\n\n") + "\n"
}

// mergeGoals replaces the rows of goals that were measured, and appends new ones.
func mergeGoals(old, text string) string {
	rows := strings.Split(strings.TrimSpace(old), "\n")
	goal := func(row string) string { return strings.Split(row, " | ")[0] }
	for _, row := range strings.Split(strings.TrimSpace(text), "\n") {
		if !strings.HasPrefix(row, "| ") || goal(row) == "| goal" {
			continue
		}
		if i := slices.IndexFunc(rows, func(r string) bool { return goal(r) == goal(row) }); i >= 0 {
			rows[i] = row
		} else {
			rows = append(rows, row)
		}
	}
	return strings.Join(rows, "\n")
}
