package record

import "testing"

// These are error members that Google, and the proxies before it, write.
func TestGoogleStatus(t *testing.T) {
	for in, want := range map[string]*Status{
		`{"code":13,"message":"m"}`:                          {13, "", "m"},
		`{"code":503,"message":"m","status":"UNAVAILABLE"}`:  {503, "UNAVAILABLE", "m"},
		`{"code":"14","message":"m"}`:                        {14, "", "m"},
		`{"code":"14","status":"UNAVAILABLE","message":"m"}`: {14, "UNAVAILABLE", "m"},
		`{"code":"UNAVAILABLE","message":"m"}`:               {0, "UNAVAILABLE", "m"},
		`{"code":0,"status":"INTERNAL","message":"m"}`:       {0, "INTERNAL", "m"},
		`{"code":3.5,"message":{"a":1}}`:                     {0, "3.5", `{"a":1}`},
		`{"message":"m"}`:                                    {0, "", "m"},
		`{"code":3}`:                                         {3, "", `{"code":3}`},
		`"boom"`:                                             {0, "", "boom"},
		`[1]`:                                                {0, "", "[1]"},
		`null`:                                               nil,
		`""`:                                                 nil,
		`{}`:                                                 nil,
		`{"code":0}`:                                         nil,
		`{"code":0,"message":"fine"}`:                        nil,
		`{"code":0,"status":"OK","message":"OK"}`:            nil,
		`{"code":null,"status":null,"message":null,"x":[1,2]}`: nil,
	} {
		value := []byte(in)
		if in == "null" { // a reader passes nil for null
			value = nil
		}
		got := googleStatus(value)
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, want %+v", in, got, want)
		}
	}
	var p ResponseParser
	for line, vector := range map[string]bool{
		`{"key":"k","error":{"code":0},"response":{"embedding":{"values":[1]}}}`:                          true,
		`{"key":"k","response":{"embedding":{"values":[1]},"error":{"status":"OK"}}}`:                     true,
		`{"key":"k","error":{"code":"13"},"response":{"embedding":{"values":[1]}}}`:                       false,
		`{"key":"k","error":{"status":"OK"},"response":{"embedding":{"values":[1]},"error":{"code":13}}}`: false,
	} {
		r, err := p.Parse([]byte(line))
		if err != nil || (r.Values != nil) != vector || (r.Err == nil) != vector {
			t.Errorf("%s: %+v, %v", line, r, err)
		}
	}
	if _, err := p.Parse([]byte(`{"key":"k","error":{}}`)); err == nil {
		t.Error("a line with neither a vector nor an error was accepted")
	}
}
