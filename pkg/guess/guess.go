// Package guess finds the name that was probably meant by another one.
package guess

// Closest returns the one of some names that was probably meant by v, or "". All
// names begin with the same fixed number of bytes.
func Closest(v string, names []string, fixed int) (near string) {
	least := max(len(v)-fixed, 3)/3 + 1 // more is another word
	for _, name := range names {
		if d := Distance(v, name); d < least {
			near, least = name, d
		}
	}
	return near
}

// Distance counts the bytes to insert, delete or replace to make b of a.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
