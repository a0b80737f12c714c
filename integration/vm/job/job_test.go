package job

import "testing"

func TestEventSurvivesTheSerialLine(t *testing.T) {
	want := Event{Kind: End, Name: "ring", Text: "two\nlines", Code: 2, Seconds: 1.5}
	line := want.Line()
	if n := len(line); line[n-1] != '\n' {
		t.Fatalf("%q does not end its line", line)
	}
	if got, ok := ParseEvent(line); !ok || got != want {
		t.Errorf("%q was read as %+v, %v", line, got, ok)
	}
}

func TestProgramsOutputIsNoEvent(t *testing.T) {
	for _, line := range []string{"", "PASS\n", `{"Kind":"end"}` + "\n", "\x1dvm {\n", "\x16--- PASS: TestX (0.00s)\n"} {
		if e, ok := ParseEvent([]byte(line)); ok {
			t.Errorf("%q was read as %+v", line, e)
		}
	}
}
