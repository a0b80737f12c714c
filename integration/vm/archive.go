//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// archive is Debian's archive as this machine's apt reaches it: the same mirror, proxy and
// keys, but suites and state of its own, so that nothing of the machine changes.
type archive struct {
	dir     string // of apt's state
	log     io.Writer
	updated bool
}

// suites are where Debian keeps the fleet's kernels. A kernel may be in several of them.
var suites = []struct{ archive, name string }{
	{"debian-security", "bullseye-security"}, // 5.10
	{"debian-security", "bookworm-security"}, // 6.1
	{"debian-security", "trixie-security"},   // 6.12
	{"debian", "trixie-backports"},           // later
}

// apt runs a command of apt's, kept to dir by options on its command line: those have the
// last word over the machine's own configuration.
func (a *archive) apt(program, verb string, args ...string) ([]byte, error) {
	options := []string{
		verb, "-q",
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "APT::Architecture=amd64",
		"-o", "Acquire::Retries=3",
		"-o", "APT::Sandbox::User=root", // apt's own user may not write below a home directory
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}
	return commandIn(a.dir, program, append(options, args...)...)
}

// update reads the suites' indexes, once. A suite that is gone is an error only if what was
// looked for is then not found.
func (a *archive) update() error {
	if a.updated {
		return nil
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} { // apt wants them there
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	targets, err := command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return err
	}
	sources, err := sourcesFrom(strings.Fields(string(targets)))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(sources), 0o644); err != nil {
		return err
	}
	progress(a.log, "reading the package lists")
	_, err = a.apt("apt-get", "update")
	a.updated = err == nil
	return err
}

// sourcesFrom writes a sources.list of our suites, at the mirror that this machine's own
// repositories are on.
func sourcesFrom(repositories []string) (string, error) {
	var list strings.Builder
	for _, s := range suites {
		uri, ok := mirrorOf(s.archive, repositories)
		if !ok {
			return "", errors.New("none of this machine's apt sources is a mirror of Debian")
		}
		fmt.Fprintf(&list, "deb %s %s main\n", uri, s.name)
	}
	return list.String(), nil
}

// mirrorOf finds an archive among repositories, or else supposes it beside another one.
func mirrorOf(archive string, repositories []string) (uri string, ok bool) {
	for _, at := range []string{archive, "debian", "debian-security"} {
		for _, r := range repositories {
			r = strings.TrimSuffix(r, "/") + "/"
			if i := strings.LastIndex(r, "/"+at+"/"); i >= 0 {
				return r[:i+1] + archive + r[i+1+len(at):], true
			}
		}
	}
	return "", false
}

// find returns the names of the packages that make up the newest kernel of a series.
func (a *archive) find(series string) ([]string, error) {
	updateErr := a.update()
	names, err := a.apt("apt-cache", "pkgnames", "linux-image-"+series+".")
	if err != nil {
		return nil, errors.Join(err, updateErr)
	}
	images := newestFirst(series, strings.Fields(string(names)))
	for _, image := range images {
		parts, err := a.parts(image)
		if err != nil {
			return nil, err
		}
		// An image stays listed for a while after the packages it depends on have gone.
		if _, err := a.apt("apt-get", "download", append([]string{"--print-uris"}, parts...)...); err == nil {
			return parts, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("no package linux-image-%s.*-%s in %s", series, flavour, suiteNames()), updateErr)
}

// parts are the packages with the files of a kernel: since 6.19 Debian splits them.
func (a *archive) parts(image string) ([]string, error) {
	text, err := a.apt("apt-cache", "show", "--no-all-versions", image)
	if err != nil {
		return nil, err
	}
	release := strings.TrimPrefix(image, "linux-image-")
	parts := regexp.MustCompile(`\blinux-(binary|modules)-`+regexp.QuoteMeta(release)).FindAllString(string(text), -1)
	slices.Sort(parts)
	parts = slices.Compact(parts)
	if !slices.Contains(parts, "linux-binary-"+release) {
		parts = append(parts, image)
	}
	return parts, nil
}

// unpack downloads packages and brings their files into dir.
func (a *archive) unpack(dir string, packages []string) error {
	debs := filepath.Join(a.dir, "*.deb") // apt-get puts them where it runs
	defer removeAll(debs)
	removeAll(debs)
	progress(a.log, "downloading %s", strings.Join(packages, " "))
	if _, err := a.apt("apt-get", "download", packages...); err != nil {
		return err
	}
	files, err := filepath.Glob(debs)
	if err != nil || len(files) != len(packages) {
		return fmt.Errorf("apt-get downloaded %d of %d packages: %s", len(files), len(packages), strings.Join(packages, " "))
	}
	for _, f := range files {
		if _, err := command("dpkg-deb", "-x", f, dir); err != nil {
			return err
		}
	}
	return nil
}

func removeAll(pattern string) {
	files, _ := filepath.Glob(pattern)
	for _, f := range files {
		_ = os.Remove(f)
	}
}

func suiteNames() string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// flavour is Debian's name of kernels without drivers for hardware, which are smaller.
const flavour = "cloud-amd64"

// newestFirst picks the image packages of a series.
func newestFirst(series string, names []string) []string {
	images := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !strings.HasPrefix(name, "linux-image-"+series+".") || !strings.HasSuffix(name, "-"+flavour)
	})
	slices.SortFunc(images, func(a, b string) int { return compareNatural(b, a) })
	return images
}

var runs = regexp.MustCompile(`\d+|\D+`)

// compareNatural compares strings with the numbers in them taken as numbers.
func compareNatural(a, b string) int {
	return slices.CompareFunc(runs.FindAllString(a, -1), runs.FindAllString(b, -1), func(x, y string) int {
		n, errN := strconv.Atoi(x)
		m, errM := strconv.Atoi(y)
		if errN == nil && errM == nil {
			return n - m
		}
		return strings.Compare(x, y)
	})
}
