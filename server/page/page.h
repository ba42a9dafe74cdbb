// The page at "/": page.html, page.css and page.js, as they stand in this folder.
#ifndef TREELINE_SERVER_PAGE_PAGE_H_
#define TREELINE_SERVER_PAGE_PAGE_H_

namespace treeline {

extern const char kPageCss[];
extern const char kPageHtml[];
extern const char kPageJs[];

}  // namespace treeline

#endif  // TREELINE_SERVER_PAGE_PAGE_H_
