#!/bin/sh
# Build kube-apiserver 1.20 from Debian 12's source package, for `pytest -m apiserver`; put it and Debian's etcd into
# ~/.cache/xkd/apiserver or the folder in XKD_APISERVER. Needs Debian 12 with dpkg-dev, but not root: packages are
# unpacked into a temporary folder, not installed, and apt's own lists and sources stay as they are.
set -eu

out=${XKD_APISERVER:-${XDG_CACHE_HOME:-$HOME/.cache}/xkd/apiserver}
mkdir -p "$out"
work=$(mktemp -d "${TMPDIR:-/tmp}/xkd-apiserver.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
mkdir -p lists/partial cache/archives/partial root

# The mirrors of this machine, with their source packages, which are usually not enabled.
apt-get indextargets --format 'deb [signed-by=KEYRING] $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Origin: Debian' 'Component: main' |
    sed -n 's|KEYRING|/usr/share/keyrings/debian-archive-keyring.gpg|; p; s/^deb/deb-src/p' >sources.list
cat >apt.conf <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
CONF
export APT_CONFIG="$work/apt.conf"
apt-get update
apt-get source kubernetes
apt-get download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server
for package in *.deb; do
    dpkg-deb --extract "$package" root
done

# The vendored reflect2 takes addresses of functions of Go's runtime that Go 1.18 changed: the server would crash.
mkdir -p go/src/k8s.io
mv kubernetes-*/ go/src/k8s.io/kubernetes
cd go/src/k8s.io/kubernetes
rm -r vendor/github.com/modern-go/reflect2
cp -r "$work/root/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/reflect2
# With Go 1.19, the vendored validation takes an empty string for null, as it compares two reflect.Value.
sed -i 's/ || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))//' \
    vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go

export GOROOT="$work/root/usr/lib/go-1.19" GOCACHE="$work/gocache" GOPATH="$work/go" GO111MODULE=off CGO_ENABLED=0
PATH="$GOROOT/bin:$PATH"
renice -n 19 $$ >/dev/null

# What Kubernetes' own Makefile generates and the source does not contain: the types' OpenAPI, for validation.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
folders=$(grep -rl --include='*.go' --exclude='*_test.go' '+k8s:openapi-gen=' pkg staging/src/k8s.io |
    grep -v -e /code-generator/ -e /sample-apiserver/ | xargs -n1 dirname | sort -u |
    sed 's|staging/src|vendor|; s|^|k8s.io/kubernetes/|' | paste -sd,)
"$work/openapi-gen" -i "$folders" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations"

# Without a version of its own, the server would report v0.0.0.
version=v$(dpkg-parsechangelog --show-field Version | sed 's/.*really//; s/-.*//')
component=k8s.io/kubernetes/vendor/k8s.io/component-base/version
go build -o "$out/kube-apiserver" \
    -ldflags "-s -w -X $component.gitVersion=$version -X $component.gitMajor=1 -X $component.gitMinor=20" \
    ./cmd/kube-apiserver
cp "$work/root/usr/bin/etcd" "$out/etcd"
echo "built $version: $out"
