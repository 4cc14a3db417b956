#!/bin/sh
# Makes the certificates of test/tls.test.ts anew, in this directory. Needs OpenSSL; the tests do not.
# They are valid for 100 years, except the one that has expired. The keys protect nothing.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

authority() { # name
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
    -subj "/CN=pg-membership tests: $1" -keyout "$work/$1.key" -out "$1.crt" 2>/dev/null
}
key() { # name
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
}
certificate() { # name, key, common name, authority, first day, last day
  openssl req -new -key "$2.key" -subj "/CN=$3" -out "$work/$1.csr"
  : >"$work/index.txt"
  printf '[ca]\ndefault_ca=d\n[d]\ndatabase=%s\nnew_certs_dir=%s\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nx509_extensions=e\nunique_subject=no\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=DNS:%s\n' \
    "$work/index.txt" "$work" "$3" >"$work/ca.cnf"
  openssl ca -batch -notext -config "$work/ca.cnf" -cert "$4.crt" -keyfile "$work/$4.key" \
    -startdate "$5" -enddate "$6" -in "$work/$1.csr" -out "$1.crt" 2>/dev/null
}

authority ca
authority stranger-ca
key server
key client
certificate server server localhost ca 20240101000000Z 21240101000000Z
certificate expired server localhost ca 20240101000000Z 20240102000000Z
certificate client client certified ca 20240101000000Z 21240101000000Z
certificate stranger client certified stranger-ca 20240101000000Z 21240101000000Z
